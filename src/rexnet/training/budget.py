"""Settings that depend on the budget of a training run: its images, epochs and weight updates."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, cast

from rexnet.data.config import AugmentConfig
from rexnet.training.config import LoopConfig, OptimConfig, TrainConfig

Settings = TypeVar("Settings", bound=LoopConfig)

LEAST_STEPS = 100
"""Number of weight updates below which a smaller batch trained a better network (results/recipes_cpu.jsonl)."""

SCRATCH_LR, FINETUNE_LR = 0.02, 0.005
"""Peak learning rates from random weights, and of a whole network from given ones: for these, 0.02 was better from
weights of CIFAR-10 (results/finetune_cpu.jsonl) and much worse from those of ImageNet (finetune_rates_cpu.jsonl)."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Amount of training, which determines the strength of the regularisation."""

    images: int | None
    """Number of training images; None if they cannot be counted without a download."""
    epochs: int
    batch_size: int
    """Images per weight update, over all processes."""

    @property
    def steps(self) -> float:
        """Number of weight updates; infinite if the images are not counted."""
        return math.inf if self.images is None else self.epochs * math.ceil(self.images / self.batch_size)

    def facts(self) -> dict[str, int]:
        """Return the values that are known, for config.json."""
        facts = asdict(self) if self.images is None else {**asdict(self), "steps": int(self.steps)}
        return {name: value for name, value in facts.items() if value is not None}


def batch_size_for(images: int, *, epochs: int, usual: int, least: int = 8) -> int:
    """Return `usual`, or the largest smaller power of two, at least `least`, with LEAST_STEPS steps in `epochs`."""
    batch_size = usual
    while batch_size >= 2 * least and epochs * math.ceil(images / batch_size) < LEAST_STEPS:
        batch_size //= 2
    return batch_size


def follow_budget(start: TrainConfig, budget: Budget, *, lr: float = SCRATCH_LR) -> TrainConfig:
    """Return `start` with the optimizer and the augmentation that fit `budget`: settings that help in the paper's 400
    epochs of ImageNet prevent learning in a few hundred steps."""
    if budget.steps > 10_000 and budget.epochs > 30:
        return start
    augment = start.augment
    if not augment.crop_padding_px:
        smallest_crop = 0.5 if budget.steps < 2_000 or budget.epochs <= 30 else 0.35
        augment = AugmentConfig(crop_scale=(smallest_crop, 1.0), horizontal_flip=augment.horizontal_flip)
    start = replace(start, augment=augment, network=replace(start.network, drop_rate=0.0))
    start = learn_in_few_steps(start, epochs=budget.epochs, lr=lr)
    return replace(start, optim=replace(start.optim, norm_images=512))


def learn_in_few_steps(start: Settings, *, epochs: int, lr: float = SCRATCH_LR) -> Settings:
    """Return `start`, for a classifier or a detector, with the optimizer, learning rate and initialisation that reached
    the highest accuracy in a few hundred steps."""
    network = cast(Any, start).network
    return cast(Any, replace)(
        start,
        network=replace(network, zero_init_last=True),
        schedule=replace(start.schedule, warmup_epochs=round(0.2 * epochs, 1)),
        optim=OptimConfig(optimizer="muon", lr=lr, lr_batch=0, weight_decay=0.05),
    )
