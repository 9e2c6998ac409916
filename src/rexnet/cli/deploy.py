"""Commands that make a trained network fast elsewhere."""

from collections.abc import Sequence

from rexnet.cli.options import read_options
from rexnet.cli.tables import new_table, show
from rexnet.data.wording import plural


def quantize(arguments: Sequence[str]) -> None:
    """Make an int8 file of a trained classifier, if it keeps its accuracy"""
    from rexnet.deploy.int8_speed import ENGINE_NAMES, advice, engines
    from rexnet.deploy.quantize import QuantizeConfig, quantize

    config = read_options("quantize", QuantizeConfig, arguments)
    made = quantize(config)
    compared = made.comparison
    right = f"same class as float32, % of {compared.images:,}" if config.measure == "agreement" else "top-1 %"
    table = new_table("", right, "MB", *(f"ms at batch {speed.batch}" for speed in made.speeds))
    accuracies = {"float32": f"{compared.float_percent:.2f}", "bf16": "", "int8": f"{compared.int8_percent:.2f}"}
    megabytes = {"float32": f"{made.float_bytes / 1e6:.2f}", "bf16": "", "int8": f"{made.int8_bytes / 1e6:.2f}"}
    for name, engine in engines(config.backend).items():
        times = (f"{speed.median_ms(name):.2f}" for speed in made.speeds)
        table.add_row(f"{name} ({ENGINE_NAMES[engine]})", accuracies[name], megabytes[name], *times)
    show(table)
    images = f"{compared.images:,} images, calibrated on {made.calibration_images} others"
    print(f"drop: {compared.drop:.2f} points, within {compared.margin:.2f} at 95 %, on {images}")
    kept = made.float_layers
    tuned = ", fine-tuned" if made.fine_tuned else ""
    print(f"int8: {made.int8_layers} {plural(made.int8_layers, 'layer')}{tuned}; in float: {', '.join(kept) or 'none'}")
    print(advice(made.speeds))
    print(f"written: {config.output}")
