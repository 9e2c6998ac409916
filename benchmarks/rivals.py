"""Training loops that users would write, or start from timm and torchvision, for the benchmarks of recipes.

All go through one loop, `train_epoch`; a rival is a row of RIVALS.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR
from torchvision.transforms import v2 as transforms
from torchvision.transforms._presets import ImageClassification

from rexnet.training.evaluation import SizedBatches

Transform = Callable[[Image.Image], Tensor]


def _nothing(*_: object) -> None:
    pass


class Descent(NamedTuple):
    """An optimizer and its learning rate. `after_epoch` is called with the number of epochs done."""

    optimizer: torch.optim.Optimizer
    after_step: Callable[[], object] = _nothing
    after_epoch: Callable[[int], object] = _nothing
    clip_norm: float | None = None


class Recipe(NamedTuple):
    descent: Descent
    train_transform: Transform
    val_transform: Transform
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy


class Budget(NamedTuple):
    """What a recipe may know of the run beside its network."""

    image_px: int
    batch_size: int
    epochs: int
    steps_per_epoch: int


def one_cycle(model: nn.Module, *, peak_lr: float, steps: int, clip_norm: float | None = None) -> Descent:
    """AdamW with weight decay 0.05 and a one-cycle rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.05)
    schedule = OneCycleLR(optimizer, max_lr=peak_lr, total_steps=steps)
    return Descent(optimizer, after_step=schedule.step, clip_norm=clip_norm)


def _plain_transforms(image_px: int) -> tuple[Transform, Transform]:
    ending = [
        transforms.PILToTensor(),
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize([0.5], [0.25]),
    ]
    seen = [transforms.RandomResizedCrop(image_px, (0.5, 1.0)), transforms.RandomHorizontalFlip()]
    evaluated = [transforms.Resize(image_px), transforms.CenterCrop(image_px)]
    return transforms.Compose([*seen, *ending]), transforms.Compose([*evaluated, *ending])


def plain(model: nn.Module, budget: Budget, *, peak_lr: float = 4e-3) -> Recipe:
    """RandomResizedCrop from half of the image, flip, AdamW with a one-cycle rate up to 4e-3, cross-entropy."""
    steps = budget.epochs * budget.steps_per_epoch
    return Recipe(one_cycle(model, peak_lr=peak_lr, steps=steps), *_plain_transforms(budget.image_px))


def sgd(model: nn.Module, budget: Budget) -> Recipe:
    """The same images, SGD with Nesterov momentum at a cosine rate from 0.1 for 256 images, weight decay 1e-4."""
    lr = 0.1 * budget.batch_size / 256
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = CosineAnnealingLR(optimizer, T_max=budget.epochs * budget.steps_per_epoch)
    return Recipe(Descent(optimizer, after_step=schedule.step), *_plain_transforms(budget.image_px))


def timm_defaults(model: nn.Module, budget: Budget) -> Recipe:
    """The defaults of timm's train.py: SGD at 0.1 for 256 images, cosine by epochs after 5 epochs of warm-up (which are
    all of a run of 5), weight decay 2e-5, crops from 8 %, colour jitter 0.4, label smoothing 0.1."""
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1 * budget.batch_size / 256, weight_decay=2e-5, momentum=0.9)
    schedule, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=budget.epochs, warmup_epochs=5, warmup_lr=1e-5, min_lr=0.0
    )
    assert schedule is not None and epochs == budget.epochs
    seen = create_transform(
        budget.image_px, is_training=True, scale=(0.08, 1.0), color_jitter=0.4, interpolation="random"
    )
    evaluated = create_transform(budget.image_px, interpolation="bicubic", crop_pct=0.875)
    descent = Descent(optimizer, after_epoch=schedule.step)
    return Recipe(descent, seen, evaluated, LabelSmoothingCrossEntropy(0.1))  # pyright: ignore[reportArgumentType]


def torchvision_reference(model: nn.Module, budget: Budget) -> Recipe:
    """torchvision's references/classification as it trains ResNet-50: SGD at 0.1 for its 8 x 32 images, a tenth after
    each third of the run (30 of its 90 epochs), weight decay 1e-4, crops from 8 %."""
    lr = 0.1 * budget.batch_size / 256
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    schedule = StepLR(optimizer, step_size=-(-budget.epochs // 3), gamma=0.1)
    evaluated = ImageClassification(crop_size=budget.image_px, resize_size=budget.image_px * 256 // 224)
    seen = transforms.Compose(
        [
            transforms.RandomResizedCrop(budget.image_px),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize(evaluated.mean, evaluated.std),
        ]
    )
    return Recipe(Descent(optimizer, after_epoch=lambda _: schedule.step()), seen, evaluated)


RIVALS: dict[str, Callable[[nn.Module, Budget], Recipe]] = {
    "plain": plain,
    "plain-low": partial(plain, peak_lr=1e-3),
    "sgd": sgd,
    "timm": timm_defaults,
    "torchvision": torchvision_reference,
}


class Loop(NamedTuple):
    """A training loop of one network on one set. `batches` returns those of an epoch, `evaluate` the metrics on batches
    of `val`."""

    model: nn.Module
    descent: Descent
    batches: Callable[[int], Iterable[Any]]
    steps_per_epoch: int
    loss_of: Callable[[Any], Tensor]
    val: SizedBatches
    evaluate: Callable[[SizedBatches], dict[str, float]]

    def fit(self, epochs: int) -> None:
        for epoch in range(epochs):
            self.train_on(self.batches(epoch))
            self.descent.after_epoch(epoch + 1)

    def train_on(self, batches: Iterable[Any]) -> None:
        """Take a step on each batch."""
        self.model.train()
        for batch in batches:
            loss = self.loss_of(batch)
            self.descent.optimizer.zero_grad()
            loss.backward()
            if self.descent.clip_norm:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.descent.clip_norm)
            self.descent.optimizer.step()
            self.descent.after_step()

    def seconds(self) -> tuple[float, float]:
        """Return how long an epoch and an evaluation will take, from a few batches of each; spoils the weights."""
        epoch_s = _seconds_of_batch(self.train_on, self.batches(0)) * self.steps_per_epoch
        return epoch_s, _seconds_of_batch(self.evaluate, self.val) * len(self.val)


def _seconds_of_batch(work: Callable[[list[Any]], object], batches: Iterable[Any], *, measured: int = 5) -> float:
    """Return how long `work` takes for a batch, reading included; the first one, which warms up, counts if alone."""
    seconds, began = [], time.perf_counter()
    for batch in islice(batches, 1 + measured):
        work([batch])
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return statistics.median(seconds[1:] or seconds)
