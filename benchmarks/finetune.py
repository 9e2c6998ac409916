"""The recipe `finetune` beside rivals from the same weights, and beside the same network from random weights.

The weights are those of a run of `rexnet train` on other images, such as CIFAR-10; all have their network and 64 px.
`plain` and `plain-low` are the loop of rivals.py around the network with these weights and a new classifier. Judged by
the weights after the last epoch. One row a run; runs from these weights that the results have are skipped, so a second
call continues, and the hours of the missing ones are printed first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro

import runs
from recipe_sets import Task
from recipes import TASKS, make_loop_of
from rexnet.files import digest_of
from rexnet.models.rexnet import RexNet
from rexnet.training import checkpoint
from rivals import Loop

NAME = "finetune_cpu"
SetName = Literal["flowers17", "flowers17-10", "coco-crops"]
Contender = Literal["finetune", "probe", "plain", "plain-low", "scratch"]
COMMANDS: dict[str, list[str]] = {
    "finetune": ["--recipe", "finetune"],
    "probe": ["--freeze", "all"],
}
"""Arguments of each contender that is `rexnet train` with --weights."""


@dataclass(frozen=True, kw_only=True)
class Options(runs.Options):
    """`python benchmarks/finetune.py FOLDER --weights RUN/best.pt` with that of flowers17.tar and tiny_coco.tar."""

    weights: Path
    """Checkpoint of a classifier."""
    sets: tuple[SetName, ...] = get_args(SetName)
    contenders: tuple[Contender, ...] = get_args(Contender)
    epochs: tuple[int, ...] = (5, 20)
    seeds: tuple[int, ...] = (0, 1, 2)


def train(task: Task, run: runs.Run, options: runs.Options) -> dict[str, float]:
    """Train by `rexnet train`."""
    assert isinstance(options, Options)
    if run.contender == "scratch":
        start = ["--weights", "none", "--model", str(options.weights)]
    else:
        start = ["--weights", str(options.weights), *COMMANDS[run.contender]]
    last = runs.train_by_command([*task.any_network(options.find(task.data)), *start], run, options)
    return {"top1_percent": last["val_top1"], "batch_size": last["batch_size"]}


def make_loop(task: Task, run: runs.Run, options: runs.Options) -> Loop:
    """Return a rival's loop of all layers."""
    assert isinstance(options, Options)

    def make_model(num_classes: int) -> RexNet:
        model = checkpoint.load(options.weights)
        model.reset_classifier(num_classes)
        return model

    return make_loop_of(make_model, task, run, options)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    config = checkpoint.load(options.weights).config
    setting = {
        "model": config.name,
        "width": None,  # not that of the tasks
        "stem_stride": config.stem_stride,
        "weights_sha256": digest_of(options.weights),
    }
    runs.Benchmark(NAME, options, TASKS, train, make_loop, setting).record()


if __name__ == "__main__":
    main()
