"""Top-1 of trained networks in the native engine beside PyTorch in fp32, on the same labelled images.

python benchmarks/native_accuracy.py runs/cifar --data cifar10
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import records
from record_run import command
from rexnet.data.loaders import EvalBatches
from rexnet.deploy.calibration import labelled_splits, predicted_classes
from rexnet.engines.backends import open_network
from rexnet.engines.config import PRECISIONS, Engine
from rexnet.training import checkpoint


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/native_accuracy.py runs/cifar --data cifar10`"""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of `rexnet train`; their best.pt is measured."""
    data: str
    batch_size: int = 64


def measure(run: Path, options: Options) -> None:
    config, environment = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "environment"))
    model = checkpoint.load(run / "best.pt")
    images = labelled_splits(options.data, model)[1]
    engines = [Engine(), *(Engine(backend="native", precision=precision) for precision in PRECISIONS["native"])]
    batches = EvalBatches(images, model.preprocess, batch_size=options.batch_size, bad_image="error")
    predicted, targets = predicted_classes([open_network(model, engine) for engine in engines], batches)
    for engine, found in zip(engines, predicted, strict=True):
        row = {
            "data": Path(options.data).name,
            "model": model.name,
            "image_size_px": model.preprocess.image_size_px,
            "training": command(environment, config["data"]),
            "engine": str(engine),
            "images": len(targets),
            "top1_percent": round(100 * float((found == targets).float().mean()), 3),
            "other_class": int((found != predicted[0]).sum()),
        }
        print(row)
        records.append("native_accuracy_cpu", {**row, **records.provenance("cpu")})


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    for run in options.runs:
        measure(run, options)


if __name__ == "__main__":
    main()
