"""`rexnet detect train` beside ten lines around `create_detector`: the same network, images and epochs.

The plain loop: flip, AdamW with a one-cycle rate up to 2e-3, weight decay 0.05, gradients clipped to a norm of 5. Both
are judged by the weights after the last epoch. One row a run; runs already in the results are skipped, so a second call
continues, and the hours of the missing ones are printed first. Backbones are of width 0.5, images 192 px.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import tyro
from torch import Tensor

import rivals
import runs
from rexnet.data.boxes.loaders import DetectionBatch, EvalDetectionBatches, TrainDetectionBatches
from rexnet.data.boxes.transforms import DetectionTransform
from rexnet.data.config import DetectionAugmentConfig
from rexnet.data.datasets import open_dataset
from rexnet.detection.config import Kind
from rexnet.detection.detectors import create_detector
from rexnet.detection.evaluation import evaluate_detector
from rexnet.training.distributed import World
from rexnet.training.evaluation import SizedBatches

NAME = "detector_recipes_cpu"
BACKBONE, SIZE_PX = "rexnet_050", 192
SetName = Literal["shapes", "flowers", "faster-rcnn-shapes"]


class Task(NamedTuple):
    """A detector and its dataset as both contenders see it; `data` is of recipe_sets."""

    data: str
    detector: Kind = "ssdlite"
    batch_size: int = 8
    proposals: int | None = None


TASKS: dict[str, Task] = {
    "shapes": Task("shapes-300"),
    "flowers": Task("pasted-flowers"),
    "faster-rcnn-shapes": Task("shapes-120", detector="faster_rcnn", batch_size=4, proposals=300),
}


@dataclass(frozen=True, kw_only=True)
class Options(runs.Options):
    """`python benchmarks/detector_recipes.py FOLDER` with that of flowers17.tar and tiny_coco.tar."""

    sets: tuple[SetName, ...] = ("shapes", "flowers")
    contenders: tuple[Literal["rexnet", "plain"], ...] = ("rexnet", "plain")
    epochs: tuple[int, ...] = (10, 30)
    seeds: tuple[int, ...] = (0, 1)


def _chosen(metrics: dict[str, float], prefix: str = "") -> dict[str, float]:
    return {name: metrics[prefix + name] for name in ("box_ap", "box_ap50")}


def run_rexnet(task: Task, run: runs.Run, options: runs.Options) -> dict[str, float]:
    """Train by `rexnet detect train` as a user types it."""
    command = [
        *("detect", "train", options.find(task.data), "--detector", task.detector, "--model", BACKBONE),
        *("--min-size", str(SIZE_PX), "--max-size", str(SIZE_PX)),
        *(["--proposals", str(task.proposals)] if task.proposals else []),
    ]
    last = runs.train_by_command(command, run, options)
    return {**_chosen(last, "val_"), "batch_size": last["batch_size"]}


def make_loop(task: Task, run: runs.Run, options: runs.Options) -> rivals.Loop:
    """Return the plain loop."""
    sets = open_dataset(options.find(task.data)).for_detection()
    torch.manual_seed(run.seed)
    proposals: dict[str, Any] = {"proposals": task.proposals} if task.proposals else {}
    model = create_detector(
        task.detector,
        backbone=BACKBONE,
        num_classes=len(sets.train.classes),
        min_size_px=SIZE_PX,
        max_size_px=SIZE_PX,
        **proposals,
    )
    flip = DetectionTransform(DetectionAugmentConfig(horizontal_flip=0.5))
    train = TrainDetectionBatches(sets.train, flip, batch_size=task.batch_size, seed=run.seed)

    def loss_of(batch: DetectionBatch) -> Tensor:
        return torch.stack(list(model(batch.images, batch.targets).values())).sum()

    def evaluate(batches: SizedBatches) -> dict[str, float]:
        return _chosen(evaluate_detector(model, batches, sets.val, world=World(device=torch.device("cpu"))).metrics)

    return rivals.Loop(
        model,
        rivals.one_cycle(model, peak_lr=2e-3, steps=run.epochs * len(train), clip_norm=5.0),
        batches=train.epoch,
        steps_per_epoch=len(train),
        loss_of=loss_of,
        val=EvalDetectionBatches(sets.val, batch_size=task.batch_size),
        evaluate=evaluate,
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    runs.Benchmark(NAME, options, TASKS, run_rexnet, make_loop, {"backbone": BACKBONE, "size_px": SIZE_PX}).record()


if __name__ == "__main__":
    main()
