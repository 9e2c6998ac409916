"""Accuracy and speed of a trained network in float32, bf16 and int8, as `rexnet quantize` measures them."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import tyro

import records
from record_run import command
from rexnet.data.loaders import EvalBatches
from rexnet.deploy.calibration import labelled_splits, predicted_classes
from rexnet.deploy.classifiers import open_exported, read_exported
from rexnet.deploy.config import QuantizeConfig
from rexnet.deploy.quantize import Contender, Quantized, quantize
from rexnet.engines.backends import CHANNEL_MULTIPLE, Network, open_graph
from rexnet.engines.config import Engine
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.models.inference_form import fold, pad
from rexnet.training import checkpoint


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/quantization.py runs/cifar10-1 --data cifar --title "CIFAR-10 (JPEG)"`"""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of `rexnet train`; its best.pt is quantised."""
    data: str
    title: str
    """Name of the data in the table."""
    format: Literal["onnx", "xml"] = "xml"
    max_drop: float = 0.5
    calibration_images: int = QuantizeConfig.calibration_images
    rounds: int = 30
    threads: int = 1
    loaded: bool = False
    """Other programs were at work, so that the times say little, short calls being interrupted less than long ones."""


def figures(made: Quantized) -> dict[str, Any]:
    compared = made.comparison
    return {
        "images": compared.images,
        "float_percent": round(compared.float_percent, 3),
        "int8_percent": round(compared.int8_percent, 3),
        "drop_points": round(compared.drop, 3),
        "margin_points": round(compared.margin, 3),
        "calibration_images": made.calibration_images,
        "int8_layers": made.int8_layers,
        "float_bytes": made.float_bytes,
        "int8_bytes": made.int8_bytes,
        "ms": {
            str(speed.batch): {label(each): records.quartiles(list(times)) for each, times in speed.ms.items()}
            for speed in made.speeds
        },
    }


def label(contender: Contender) -> str:
    precision = contender.precision.replace("fp32", "float32")
    return f"{precision} native" if contender.backend == "native" else precision


def other_percents(file: Path, options: Options) -> dict[str, float]:
    """Return top-1 of the same validation images in OpenVINO's bf16 and, for a .onnx file, in the native engine's
    int8."""
    model = checkpoint.load(options.run / "best.pt")
    graph = onnx_graph(fold(pad(model, CHANNEL_MULTIPLE))).SerializeToString()
    measured = labelled_splits(options.data, model)[1]
    batches = EvalBatches(
        measured, model.preprocess, batch_size=QuantizeConfig.batch_size, bad_image=QuantizeConfig.bad_image
    )
    networks: dict[str, Network] = {
        "bf16_percent": open_graph(graph, Engine(backend="openvino", precision="bf16", threads=options.threads))
    }
    if file.exists() and file.suffix == ".onnx":
        native = Engine(backend="native", threads=options.threads)
        networks["native_int8_percent"] = open_exported(read_exported(file), str(file), native)
    predicted, targets = predicted_classes(list(networks.values()), batches)
    return {
        name: round(100.0 * float((found == targets).float().mean()), 3)
        for name, found in zip(networks, predicted, strict=True)
    }


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    config, environment, summary = (
        json.loads((options.run / f"{name}.json").read_text()) for name in ("config", "environment", "summary")
    )
    row = {
        "title": options.title,
        "model": summary["model"],
        "image_size_px": config["input"]["image_size"],
        "training": command(environment, config["data"]),
        "format": options.format,
        "max_drop": options.max_drop,
        "rounds": options.rounds,
        "loaded": options.loaded,
    }
    with TemporaryDirectory() as folder:
        wanted = QuantizeConfig(
            checkpoint=str(options.run / "best.pt"),
            data=options.data,
            output=str(Path(folder, f"int8.{options.format}")),
            max_drop=options.max_drop,
            calibration_images=options.calibration_images,
            rounds=options.rounds,
            threads=options.threads,
        )
        try:
            row |= figures(quantize(wanted))
        except ValueError as error:
            row["refused"] = str(error)
        row |= other_percents(Path(wanted.output), options)
    packages = {name: version(name) for name in ("onnxruntime", "openvino")}
    provenance = records.provenance("cpu") | {"threads": options.threads}
    print(json.dumps(row, indent=2))
    print(f"appended to {records.append('quantization_cpu', {**row, **provenance, **packages})}")


if __name__ == "__main__":
    main()
