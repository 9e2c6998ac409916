"""Candidates an hour of `rexnet search run` beside a plain PyTorch script for each candidate: torchvision's ImageFolder
and transforms, a DataLoader with a worker for each core, an ordinary loop with a thread for each core.

Both train the same networks on as many images for as many epochs, and measure them after each. They take turns; the
figure of the search holds its start, the decoding of all images and the choice of candidates.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

import records
from rexnet.models.published import IMAGENET_MEAN, IMAGENET_STD
from rexnet.models.rexnet import RexNet
from rexnet.search.config import EngineOptions, SearchConfig
from rexnet.search.recipes import starting_point
from rexnet.search.results import candidates_of
from rexnet.search.storage import existing_study

NAME = "search_speed_cpu"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/search_speed.py cifar10` with the folder that holds CIFAR-10's train/ and test/."""

    data: tyro.conf.Positional[Path]
    rounds: int = 3
    candidates: int = 8
    """Of the search, a round."""
    plain_candidates: int = 2
    """Of the plain script, a round: the first ones of the search."""
    cores: int = 2
    """Processes of the search; threads, and workers of the loader, of the plain script."""
    epochs: int = 8
    shots: int = 300
    val_shots: int = 300
    plain: str | None = None
    """What this script calls itself with: the channels of the candidate to train."""


def settings(options: Options) -> SearchConfig:
    """Return the settings of the short search on the paper's constraint (a)."""
    start = starting_point(SearchConfig(constraint="a", engine=EngineOptions(output="nowhere")))
    return replace(
        start,
        data=str(options.data),
        images=replace(start.images, shots=options.shots, val_shots=options.val_shots, horizontal_flip=0.5),
        schedule=replace(start.schedule, epochs=options.epochs),
    )


def loader(folder: Path, transform: Any, *, per_class: int, options: Options, train: bool) -> DataLoader:
    images = datasets.ImageFolder(str(folder), transform)
    chosen: list[int] = []
    for label in range(len(images.classes)):
        chosen += [index for index, target in enumerate(images.targets) if target == label][:per_class]
    batch = settings(options).training.batch_size
    return DataLoader(Subset(images, chosen), batch, shuffle=train, num_workers=options.cores)


def train_plainly(channels: Sequence[int], options: Options) -> None:
    """Train one candidate, from files to accuracy, as a plain script does."""
    torch.set_num_threads(options.cores)
    config = settings(options)
    size, padding = config.images.image_size, config.images.crop_padding_px
    finish = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    change = [transforms.RandomCrop(size, padding), transforms.RandomHorizontalFlip()]
    sides = {side: Path(options.data, side) for side in ("train", "test")}
    train_transform = transforms.Compose([transforms.Resize(size), *change, *finish])
    train = loader(sides["train"], train_transform, per_class=options.shots, options=options, train=True)
    val_transform = transforms.Compose([transforms.Resize(size), *finish])
    val = loader(sides["test"], val_transform, per_class=options.val_shots, options=options, train=False)
    model = RexNet(config.space.config(channels, num_classes=10))
    criterion = nn.CrossEntropyLoss(label_smoothing=config.training.label_smoothing)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    for epoch in range(options.epochs):
        model.train()
        for images, targets in train:
            optimizer.zero_grad()
            criterion(model(images), targets).backward()
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum(int((model(images).argmax(1) == targets).sum()) for images, targets in val)
        print(f"epoch {epoch + 1}: {right} right")


def seconds_of(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def measure_round(options: Options, seed: int) -> tuple[float, float]:
    """Return candidates per hour of the search and of the plain script."""
    sizes = ["--epochs", str(options.epochs), "--shots", str(options.shots), "--val-shots", str(options.val_shots)]
    with tempfile.TemporaryDirectory() as folder:
        words = ["--constraint", "a", "--sampler", "random", "--comparisons", "0", "--seed", str(seed), *sizes]
        counts = ["--candidates", str(options.candidates), "--processes", str(options.cores), "--output", folder]
        spent = seconds_of([sys.executable, "-m", "rexnet", "search", "run", str(options.data), *words, *counts])
        found = candidates_of(existing_study(EngineOptions(output=folder)))
    trained = [row for row in found if row.seconds is not None]
    ours = 3600 * len(trained) / spent
    plain = 0.0
    for row in trained[: options.plain_candidates]:
        script = [sys.executable, __file__, str(options.data), "--plain", row.name, "--cores", str(options.cores)]
        plain += seconds_of([*script, *sizes])
    return ours, 3600 * options.plain_candidates / plain


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    if options.plain is not None:
        train_plainly(tuple(map(int, options.plain.split("-"))), options)
        return
    figures = []
    for seed in range(options.rounds):
        ours, plain = measure_round(options, seed)
        figures.append((ours, plain))
        print(
            f"round {seed + 1}: {ours:.1f} candidates an hour, {plain:.1f} one by one: {ours / plain:.2f}", flush=True
        )
    row = {
        "what": f"constraint (a), {options.epochs} epochs of {options.shots} images a class",
        "cores": options.cores,
        "rounds": options.rounds,
        "search_candidates": options.candidates,
        "plain_candidates": options.plain_candidates,
        "search_per_hour": [round(ours, 1) for ours, _ in figures],
        "plain_per_hour": [round(plain, 1) for _, plain in figures],
        "ratio": [round(ours / plain, 2) for ours, plain in figures],
        "median_ratio": round(statistics.median(ours / plain for ours, plain in figures), 2),
    }
    print(f"appended to {records.append(NAME, {**row, **records.provenance('cpu')})}")


if __name__ == "__main__":
    main()
