"""The default recipe beside rival training loops: the same network, images and epochs.

The rivals are in rivals.py. All are judged by the weights after the last epoch. One row a run; runs already in the
results are skipped, so a second call continues, and the hours of the missing ones are printed first. Networks are of
width 0.5 at 64 px (digits and CIFAR-10 at 32, stem stride 1; the sets named wide have width 1.0 and 128 px).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import rivals
import runs
from recipe_sets import Task
from rexnet.data.datasets import open_dataset
from rexnet.data.image_set import ImageSet
from rexnet.models.factory import create_model
from rexnet.models.rexnet import RexNet

NAME = "recipes_cpu"
BATCH = 32
SetName = Literal[
    "digits",
    "cifar10-2000",
    "cifar10-10000",
    "cifar10",
    "flowers17",
    "flowers17-10",
    "flowers17-wide",
    "coco-crops",
    "shapes",
    "shapes-wide",
]


TASKS: dict[str, Task] = {
    "digits": Task("digits", image_px=32),
    "cifar10-2000": Task("cifar10", image_px=32, shots=200),
    "cifar10-10000": Task("cifar10", image_px=32, shots=1000),
    "cifar10": Task("cifar10", image_px=32),
    "flowers17": Task("flowers17"),
    "flowers17-10": Task("flowers17", shots=10),
    "coco-crops": Task("coco-crops"),
    "shapes": Task("shape-crops"),
    "flowers17-wide": Task("flowers17", image_px=128, width=1.0),
    "shapes-wide": Task("shape-crops", image_px=128, width=1.0),
}


@dataclass(frozen=True, kw_only=True)
class Options(runs.Options):
    """`python benchmarks/recipes.py FOLDER` with that of flowers17.tar, cifar10.tar.gz and tiny_coco.tar."""

    sets: tuple[SetName, ...] = ("digits", "cifar10-2000", "flowers17", "flowers17-10", "coco-crops", "shapes")
    contenders: tuple[Literal["rexnet", "plain", "plain-low", "sgd", "timm", "torchvision"], ...] = ("rexnet", "plain")
    epochs: tuple[int, ...] = (5, 20)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def run_rexnet(task: Task, run: runs.Run, options: runs.Options) -> dict[str, float]:
    """Train by `rexnet train` as a user types it."""
    last = runs.train_by_command(task.command(options.find(task.data)), run, options)
    return {"top1_percent": last["val_top1"], "batch_size": last["batch_size"]}


class Pixels(Dataset[tuple[Tensor, int]]):
    """Transformed images with their class."""

    def __init__(self, images: ImageSet, transform: rivals.Transform):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images.load(index)), int(self.images.targets[index])


@torch.inference_mode()
def top1_percent(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return the top-1 accuracy of a classifier on batches of images and targets."""
    model.eval()
    right = [model(images).argmax(1) == targets for images, targets in batches]
    return {"top1_percent": 100 * torch.cat(right).double().mean().item()}


def make_loop(task: Task, run: runs.Run, options: runs.Options) -> rivals.Loop:
    """Return a rival's loop."""

    def make_model(num_classes: int) -> RexNet:
        return create_model("rexnet", width=task.width, stem_stride=task.stem_stride, num_classes=num_classes)

    return make_loop_of(make_model, task, run, options)


def make_loop_of(make_model: Callable[[int], RexNet], task: Task, run: runs.Run, options: runs.Options) -> rivals.Loop:
    """Return a rival's loop of the network for that many classes; the last batch of an epoch is dropped where it is not
    full."""
    sets = open_dataset(options.find(task.data)).for_training(shots=task.shots, seed=run.seed)
    torch.manual_seed(run.seed)
    model = make_model(len(sets.classes))
    steps = max(len(sets.train) // BATCH, 1)
    budget = rivals.Budget(image_px=task.image_px, batch_size=BATCH, epochs=run.epochs, steps_per_epoch=steps)
    recipe = rivals.RIVALS[run.contender](model, budget)
    train = DataLoader(
        Pixels(sets.train, recipe.train_transform), batch_size=BATCH, shuffle=True, drop_last=len(sets.train) > BATCH
    )

    def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
        images, targets = batch
        return recipe.loss(model(images), targets)

    return rivals.Loop(
        model,
        recipe.descent,
        batches=lambda _: train,
        steps_per_epoch=steps,
        loss_of=loss_of,
        val=DataLoader(Pixels(sets.val, recipe.val_transform), batch_size=2 * BATCH),
        evaluate=partial(top1_percent, model),
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    runs.Benchmark(NAME, options, TASKS, run_rexnet, make_loop, {"batch_size": BATCH}).record()


if __name__ == "__main__":
    main()
