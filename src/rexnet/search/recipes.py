"""Complete settings of a search, to run as they are or to change in a field or two."""

from collections.abc import Callable
from dataclasses import replace

from rexnet.search.config import CandidateOptions, ImageOptions, RecipeName, SearchConfig
from rexnet.search.published import SEARCHES, Constraint
from rexnet.search.space import Space
from rexnet.training.config import ScheduleConfig
from rexnet.training.recipes import small_image


def published() -> SearchConfig:
    """The paper's search: each candidate trained for 30 epochs with early stopping, three times, on CIFAR.

    Command: rexnet search run torchvision/cifar100 --recipe published --constraint a --candidates 200
    Hardware: GPUs; several processes share one. Untested here. Source: paper section 4; optimizer, batch, learning
    rate, augmentation and the number of candidates are not published: those of `rexnet train`'s small-image recipe
    without its average of weights, and an early stop after 10 epochs that are no better.
    """
    base = small_image()
    return SearchConfig(
        recipe="published",
        images=ImageOptions(image_size=32, crop_padding_px=4),
        training=CandidateOptions(repeats=3, batch_size=64),
        optim=replace(base.optim, ema_decay=None),
        schedule=ScheduleConfig(epochs=30, warmup_epochs=1.0, patience=10),
    )


def short() -> SearchConfig:
    """For two CPU cores and an hour or two: few images of half the side, few epochs, one training a candidate.

    Command: rexnet search run torchvision/cifar10 --constraint a --processes 2
    """
    base = published()
    return replace(
        base,
        recipe="short",
        images=ImageOptions(image_size=16, shots=300, val_shots=300, crop_padding_px=2),
        training=CandidateOptions(repeats=1, batch_size=32),
        schedule=ScheduleConfig(epochs=8, warmup_epochs=1.0),
    )


RECIPES: dict[RecipeName, Callable[[], SearchConfig]] = {"short": short, "published": published}

FIRST_LOOK = SearchConfig(space=Space(min_share=0.5))
"""Defaults beside which no option is refused: to read off a command line what `starting_point` needs."""


def constrained(space: Space, constraint: Constraint) -> Space:
    """`space` with the blocks and limits of one of the paper's searches."""
    row = SEARCHES[constraint]
    return replace(space, blocks=row.blocks, max_parameters=row.max_parameters, max_macs=row.max_macs)


def known_constraint(settings: SearchConfig) -> Constraint | None:
    """Which of the paper's searches this one repeats; None where blocks or limits are others."""
    name = settings.constraint
    return name if name and constrained(settings.space, name) == settings.space else None


def starting_point(asked: SearchConfig) -> SearchConfig:
    """The settings that the user's options override. `asked` is what the command line says on plain defaults; a search
    that has begun keeps its own."""
    if asked.engine.may_have_begun:
        from rexnet.search.storage import saved_settings

        if saved := saved_settings(asked.engine):
            moved = {name: getattr(asked.engine, name) for name in ("output", "storage", "study")}
            return replace(saved, engine=replace(saved.engine, **moved))
    start = RECIPES[asked.recipe]()
    if asked.constraint:
        start = replace(start, space=constrained(start.space, asked.constraint))
    if asked.data == "digits":
        start = replace(start, images=replace(start.images, horizontal_flip=0.0))
    return start
