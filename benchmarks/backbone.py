"""The part of a network that --freeze all runs once, on a CPU: as it was trained, with its batch norms folded into the
convolutions, and compiled beside; images per second of turns that follow each other."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn

import records
import rexnet
from rexnet.models.inference_form import fold

NAME = "backbone_cpu"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/backbone.py`"""

    model: str = "rexnet_100"
    image_size: int = 224
    batch: int = 32
    rounds: int = 15
    threads: int = 1
    compile: bool = True


def contenders(images: Tensor, options: Options) -> dict[str, Callable[[Tensor], Tensor]]:
    model = rexnet.create_model(options.model).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of these images, as a trained network has those of its own
    model(images)
    found = {"as trained": model.eval().forward_features, "folded": fold(model).forward_features}
    if options.compile:
        found["folded, compiled"] = torch.compile(fold(model).forward_features)
    return found


@torch.inference_mode()
def measure(options: Options) -> dict[str, object]:
    torch.manual_seed(0)
    images = torch.randn(options.batch, 3, options.image_size, options.image_size)
    functions = contenders(images, options)
    first, features, seconds = {}, {}, {name: [] for name in functions}
    for name, run in functions.items():
        start = time.perf_counter()
        features[name] = run(images)
        first[name] = round(time.perf_counter() - start, 1)
    for _ in range(options.rounds):
        for name, run in functions.items():
            start = time.perf_counter()
            run(images)
            seconds[name].append(time.perf_counter() - start)
    base = "as trained"
    speeds = {name: [options.batch / each for each in times] for name, times in seconds.items()}
    ratios = {
        name: [slow / fast for slow, fast in zip(seconds[base], times, strict=True)]
        for name, times in seconds.items()
        if name != base
    }
    return {
        "model": options.model,
        "image_size_px": options.image_size,
        "batch": options.batch,
        "rounds": options.rounds,
        "first_call_seconds": first,
        "images_per_s": {name: records.quartiles(each) for name, each in speeds.items()},
        "ratio": {name: records.quartiles(each) for name, each in ratios.items()},
        "largest_difference": {name: float((features[name] - features[base]).abs().max()) for name in ratios},
        "largest_feature": float(features[base].abs().max()),
    }


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    row = measure(options)
    print(row)
    print(f"appended to {records.append(NAME, {**row, **records.provenance('cpu')})}")


if __name__ == "__main__":
    main()
