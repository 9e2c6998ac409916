"""Candidates an hour of `rexnet search run` beside a plain script that trains one candidate after the other: each in a
process of its own that reads the images again, with the loader of `rexnet train` and a thread for each core.

Both train the same networks by the same loop, recipe and number of images. They take turns; each figure of the search
holds its start, the decoding of all images and the choice of candidates.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

import records
from rexnet.data.class_balance import draw_shots
from rexnet.data.image_sets import load_image_sets
from rexnet.data.loaders import EvalBatches, TrainBatches
from rexnet.data.transforms import AugmentConfig, TrainTransform
from rexnet.models.rexnet import RexNet
from rexnet.search.candidates import EVAL_BATCH
from rexnet.search.config import EngineOptions, SearchConfig
from rexnet.search.recipes import starting_point
from rexnet.search.results import candidates_of
from rexnet.search.storage import existing_study
from rexnet.training.classify import classification_task
from rexnet.training.distributed import World
from rexnet.training.loop import fit
from rexnet.training.run_folder import RunFolder

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
    """Processes of the search, and threads of the plain script."""
    epochs: int = 8
    shots: int = 300
    val_shots: int = 300
    plain: str | None = None
    """What this script calls itself with: the channels of the candidate to train."""


def settings(options: Options) -> SearchConfig:
    """Of the short search on the paper's constraint (a)."""
    start = starting_point(SearchConfig(constraint="a", engine=EngineOptions(output="nowhere")))
    return replace(
        start,
        data=str(options.data),
        images=replace(start.images, shots=options.shots, val_shots=options.val_shots, horizontal_flip=0.5),
        schedule=replace(start.schedule, epochs=options.epochs),
    )


def train_plainly(channels: Sequence[int], options: Options) -> None:
    """One candidate from files to accuracy."""
    torch.set_num_threads(options.cores)
    config = settings(options)
    train_config, preprocess = config.train_config(seed=0), config.images.preprocess
    sets = load_image_sets(options.data, shots=options.shots)
    sets = replace(sets, val=draw_shots(sets.val, options.val_shots, 0))
    augment = AugmentConfig(crop_padding_px=config.images.crop_padding_px)
    batch_size = train_config.run.batch_size
    batches = TrainBatches(sets.train, TrainTransform(preprocess, augment), batch_size=batch_size, seed=0)
    world = World(device=torch.device("cpu"))
    task = classification_task(
        sets, EvalBatches(sets.val, preprocess, batch_size=EVAL_BATCH), train_config, world=world
    )
    model = RexNet(config.space.config(channels, num_classes=len(sets.classes)))
    with tempfile.TemporaryDirectory() as folder:
        fit(model, batches, task, config=train_config, run=RunFolder(folder), world=world)


def seconds_of(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def measure_round(options: Options, seed: int) -> tuple[float, float]:
    """Candidates an hour of the search and of the plain script."""
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
