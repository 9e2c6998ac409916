"""Images per second of this package's network beside timm's of the same name, in training and inference.

The two take turns within every round, so that a drift of the machine hits both; a row holds the median and the
quartiles of the rounds, and the median of the ratio within a round.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
import tyro
from torch import Tensor, nn

import records
import rexnet


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of the measurement. `python benchmarks/throughput.py --device cuda --precision amp` for a GPU."""

    model: str = "rexnet_100"
    """A name that this package and timm share."""
    image_size: int = 224
    train_batch: int = 16
    inference_batch: int = 16
    rounds: int = 15
    seconds: float = 1.0
    """Least time of one measurement."""
    device: str = "cpu"
    precision: Literal["float32", "amp"] = "float32"
    """amp: autocast to bfloat16."""
    compile: bool = False
    threads: int = 2
    record: bool = True
    """Append the rows to results/."""


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def training_step(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "amp"):
            loss = loss_function(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference_step(model: nn.Module, images: Tensor, precision: str) -> Callable[[], None]:
    def step() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "amp"):
            model(images)

    return step


def images_per_second(step: Callable[[], None], batch: int, options: Options) -> float:
    count = 0
    synchronize(options.device)
    start = time.perf_counter()
    while time.perf_counter() - start < options.seconds:
        step()
        synchronize(options.device)
        count += batch
    return count / (time.perf_counter() - start)


def measure(mode: str, options: Options) -> dict[str, Any]:
    batch = options.train_batch if mode == "training" else options.inference_batch
    images = torch.randn(batch, 3, options.image_size, options.image_size, device=options.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device=options.device)
    steps, peak_mib = {}, {}
    for name, create in (("ours", rexnet.create_model), ("timm", timm.create_model)):
        model = create(options.model).to(options.device).to(memory_format=torch.channels_last).train(mode == "training")
        runner: Any = torch.compile(model) if options.compile else model
        if mode == "training":
            steps[name] = training_step(runner, images, labels, options.precision)
        else:
            steps[name] = inference_step(runner, images, options.precision)
        if options.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            steps[name]()
        if options.device.startswith("cuda"):
            peak_mib[name] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for round_index in range(options.rounds):
        order = list(steps) if round_index % 2 else list(reversed(steps))
        for name in order:
            speeds[name].append(images_per_second(steps[name], batch, options))
    return {
        "what": mode,
        "model": options.model,
        "image_size_px": options.image_size,
        "batch": batch,
        "precision": options.precision,
        "compile": options.compile,
        "rounds": options.rounds,
        "ours_images_per_s": records.quartiles(speeds["ours"]),
        "timm_images_per_s": records.quartiles(speeds["timm"]),
        "ratio": records.quartiles(
            [ours / theirs for ours, theirs in zip(speeds["ours"], speeds["timm"], strict=True)]
        ),
        **({"peak_mib": peak_mib} if peak_mib else {}),
    }


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    device = "cuda" if options.device.startswith("cuda") else options.device
    for mode in ("inference", "training"):
        row = measure(mode, options)
        ratio, ours, theirs = row["ratio"], row["ours_images_per_s"], row["timm_images_per_s"]
        print(f"{mode}: {ours[1]:.1f} images/s, timm {theirs[1]:.1f}, ratio {ratio[1]} ({ratio[0]} to {ratio[2]})")
        if options.record:
            print(
                f"appended to {records.append(f'throughput_{device}', {**row, **records.provenance(options.device)})}"
            )


if __name__ == "__main__":
    main()
