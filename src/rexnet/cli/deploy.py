"""Commands for networks: list, export, measure, serve and share them."""

import os
import shlex
from collections.abc import Sequence

from rexnet.cli.options import fail, read_options
from rexnet.cli.tables import new_table, percent, show
from rexnet.text import quantity


def export(arguments: Sequence[str]) -> None:
    """Write a network to a file for ONNX Runtime, OpenVINO and others"""
    from rexnet.deploy.config import ExportConfig

    config = read_options("export", ExportConfig, arguments)

    from rexnet.deploy.export import export_files

    print(export_files(config).describe())


def quantize(arguments: Sequence[str]) -> None:
    """Quantize a trained classifier to int8, if it keeps its accuracy"""
    from rexnet.deploy.config import QuantizeConfig

    config = read_options("quantize", QuantizeConfig, arguments)

    from rexnet.deploy.quantize import Contender, advice, quantize

    made = quantize(config)
    compared = made.comparison
    right = f"same class as float32, % of {compared.images:,}" if config.measure == "agreement" else "top-1 %"
    table = new_table("", right, "MB", *(f"ms at batch {speed.batch}" for speed in made.speeds))
    known = {
        Contender("fp32", config.backend): (f"{compared.float_percent:.2f}", f"{made.float_bytes / 1e6:.2f}"),
        Contender("int8", config.backend): (f"{compared.int8_percent:.2f}", f"{made.int8_bytes / 1e6:.2f}"),
    }
    for contender in made.speeds[0].ms:
        figures = known.get(contender, ("", ""))
        table.add_row(str(contender), *figures, *(f"{speed.median_ms(contender):.2f}" for speed in made.speeds))
    show(table)
    images = f"{quantity(compared.images, 'image')}, calibrated on {made.calibration_images} others"
    print(f"drop: {compared.drop:.2f} points, within {compared.margin:.2f} at 95 %, on {images}")
    print(f"int8: {quantity(made.int8_layers, 'layer')}")
    print(advice(made.speeds))
    print(f"written: {config.output}")


def bench(arguments: Sequence[str]) -> None:
    """Measure how fast networks run on this machine"""
    from rexnet.deploy.config import BenchConfig

    config = read_options("bench", BenchConfig, arguments)

    from rexnet.deploy.bench import bench as measure

    rows = measure(config)
    for batch, size_px in dict.fromkeys((row.batch, row.image_size_px) for row in rows):
        print(f"batch {batch}, {size_px} px")
        table = new_table("network", "engine", "ms", "quartiles", "p95", "images/s", *["MiB"] * config.memory)
        for row in rows:
            if (row.batch, row.image_size_px) != (batch, size_px):
                continue
            low, high = row.quartiles_ms
            times = (f"{row.median_ms:.4g}", f"{low:.4g}-{high:.4g}", f"{row.p95_ms:.4g}", f"{row.images_per_s:.1f}")
            memory = ["-" if row.peak_mib is None else f"{row.peak_mib:.0f}"] * config.memory
            table.add_row(row.model, f"{row.backend} {row.precision}", *times, *memory)
        show(table)
    for path in filter(None, (config.output, config.plot)):
        print(f"written: {path}")


def fit_budget(arguments: Sequence[str]) -> None:
    """Find the widest network that is fast enough on this machine"""
    from rexnet.deploy.config import BudgetConfig

    config = read_options("fit-budget", BudgetConfig, arguments)

    from rexnet.deploy.budget import fit_budget as fit

    found = fit(config)
    with_memory = any(one.measured.peak_mib is not None for one in found.candidates)
    table = new_table(
        "network", "px", "M params", "M MACs", "predicted ms", "measured", *["MiB"] * with_memory, "verdict"
    )
    verdicts = {found.chosen: "chosen", **{other: "widest here" for other in found.others}}
    for one in found.candidates:
        sizes = (str(one.image_size_px), f"{one.parameters / 1e6:.2f}", f"{one.macs / 1e6:.1f}")
        predicted = "-" if one.predicted_ms is None else f"{one.predicted_ms:.2f}"
        memory = ["-" if one.measured.peak_mib is None else f"{one.measured.peak_mib:.0f}"] * with_memory
        verdict = verdicts.get(one, "fits" if one.fits else "too much")
        table.add_row(one.model, *sizes, predicted, f"{one.measured.latency_ms:.2f}", *memory, verdict)
    show(table)
    print(f"{found.chosen.model} at {found.chosen.image_size_px} px is the widest within the budget ({found.engine})")
    if found.doubt:
        print(found.doubt)
    print(f"train it: {found.train_command}")


def serve(arguments: Sequence[str]) -> None:
    """Classify images and detect objects over HTTP"""
    from rexnet.serve.config import ServeConfig

    config = read_options("serve", ServeConfig, arguments)
    # Not an option, because other users of this machine can read the command line.
    api_key = config.read_api_key(os.environ.get("REXNET_API_KEY"))
    try:
        from rexnet.serve.run import serve as listen
    except ImportError as error:
        if (error.name or "").startswith("rexnet"):
            raise
        raise ValueError(f"rexnet serve needs the package {error.name}: pip install 'rexnet[serve]'") from error
    listen(config, api_key=api_key)


def card(arguments: Sequence[str]) -> None:
    """Write a model folder with a card, to share or to upload to the hub"""
    from rexnet.card.config import CardConfig
    from rexnet.text import printable

    config = read_options("card", CardConfig, arguments)

    from rexnet.card.write import write_card

    made = write_card(config)
    path = printable(made.path)
    facts = f"{made.trained.network}, {quantity(len(made.trained.classes), 'class')}, {made.bytes / 1e6:,.1f} MB"
    print(f"model folder: {path} ({facts})")
    if config.license is None:
        print("no licence is stated; name one with --license")
    if made.address:
        print(f"uploaded to:  {made.address}")
    predict = "detect predict" if made.trained.is_detector else "predict"
    out = " --out DIR" if made.trained.is_detector else ""
    print(f"use it:       rexnet {predict} {shlex.quote(path)} IMAGE|FOLDER|PATTERN ...{out}")


def models(arguments: Sequence[str]) -> None:
    """List the networks, their size and their published weights"""
    if arguments:
        _show_help_or_fail("models", arguments, "lists all networks and takes no options")
        return

    import torch

    from rexnet.models.cost import measure_cost
    from rexnet.models.factory import create_model
    from rexnet.models.published import published_for
    from rexnet.models.variants import list_models

    table = new_table("network", "parameters M", "MACs G at 224 px", "published weights (their publisher's top-1 %)")
    for name in list_models():
        with torch.device("meta"):
            cost = measure_cost(create_model(name))
        rows = [f"{row.name} {percent(row.top1_percent)}" for row in published_for(name)]
        table.add_row(name, f"{cost.parameters / 1e6:.2f}", f"{cost.macs / 1e9:.3f}", "\n".join(rows))
    show(table)
    print("any other width: rexnet_117 is width 1.17, also with rexnetr_ and rexnet_lite_")


def _show_help_or_fail(command: str, arguments: Sequence[str], sentence: str) -> None:
    if arguments[0] not in ("-h", "--help"):
        fail(f"unrecognized options {' '.join(arguments)}; rexnet {command} {sentence}", code=2)
    print(f"usage: rexnet {command}\n\nrexnet {command} {sentence}.")
