"""The paper's four searches (Table 3, on CIFAR-100), and complete settings to start a search from."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from rexnet.search.config import CandidateOptions, Constraint, ImageOptions, RecipeName, SearchConfig
from rexnet.search.space import Space
from rexnet.training.config import ScheduleConfig
from rexnet.training.recipes import small_image


class PublishedGroup(NamedTuple):
    """Mean top-1 in percent and mean FLOPs in millions of a tenth of the candidates, each with its spread."""

    top1: float
    top1_spread: float
    mflops: float
    mflops_spread: float


class PublishedSearch(NamedTuple):
    """A search of the paper, which rounds its limits: `max_parameters` and `max_macs` are the smallest round numbers
    that its best and worst networks satisfy. Table 3 states about 300 M FLOPs for (d), but all its networks have about
    350."""

    blocks: int
    max_parameters: float
    max_macs: float
    best: tuple[int, ...]
    worst: tuple[int, ...]
    groups: dict[str, PublishedGroup]
    """The top, middle and bottom 10 %."""


def _groups(*rows: tuple[float, float, float, float]) -> dict[str, PublishedGroup]:
    return {name: PublishedGroup(*row) for name, row in zip(("top", "middle", "bottom"), rows, strict=True)}


SEARCHES: dict[Constraint, PublishedSearch] = {
    "a": PublishedSearch(
        blocks=5,
        max_parameters=0.205e6,  # stated: 0.2 M parameters, 30 M FLOPs
        max_macs=30e6,
        best=(34, 34, 45, 55, 66),
        worst=(36, 36, 36, 36, 83),
        groups=_groups((63.1, 0.1, 30, 1), (62.2, 0.0, 30, 1), (61.4, 0.2, 30, 1)),
    ),
    "b": PublishedSearch(
        blocks=9,
        max_parameters=0.515e6,  # stated: 0.5 M parameters, 100 M FLOPs
        max_macs=100e6,
        best=(24, 33, 42, 50, 59, 68, 77, 85, 94),
        worst=(39, 39, 39, 39, 39, 39, 39, 87, 158),
        groups=_groups((68.8, 0.1, 101, 5), (68.0, 0.1, 100, 6), (67.4, 0.3, 97, 8)),
    ),
    "c": PublishedSearch(
        blocks=9,
        max_parameters=1.055e6,  # stated: 1.0 M parameters, 200 M FLOPs
        max_macs=200e6,
        best=(30, 45, 59, 74, 88, 103, 117, 132, 146),
        worst=(47, 47, 70, 70, 70, 70, 70, 70, 364),
        groups=_groups((71.0, 0.1, 210, 15), (70.3, 0.0, 198, 18), (69.9, 0.2, 200, 15)),
    ),
    "d": PublishedSearch(
        blocks=13,
        max_parameters=3.1e6,  # stated: 3.0 M parameters, 300 M FLOPs
        max_macs=350e6,
        best=(34, 34, 34, 40, 64, 88, 112, 136, 160, 184, 208, 232, 256),
        worst=(52, 52, 52, 52, 52, 52, 52, 52, 52, 115, 263, 263, 412),
        groups=_groups((73.0, 0.1, 351, 5), (72.1, 0.1, 351, 5), (71.7, 0.1, 351, 6)),
    ),
}


def published() -> SearchConfig:
    """The paper's search: each candidate trained for 30 epochs with early stopping, three times, on CIFAR.

    Command: rexnet search run torchvision/cifar100 --recipe published --constraint a --candidates 200 Hardware: GPUs;
    several processes share one. Untested here. Source: paper section 4; optimizer, batch, learning rate, augmentation
    and the number of candidates are not published: they are those of `rexnet train`'s small-image recipe without weight
    averaging, with early stopping after 10 epochs without improvement.
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
    """A search for two CPU cores and an hour or two: few images of half the size, few epochs, one training run per
    candidate.

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

DECIDING = ("data", "recipe", "constraint", "output", "storage", "study")
"""Options that determine the defaults of the other options."""


def constrain(space: Space, constraint: Constraint) -> Space:
    """Return `space` with the blocks and limits of one of the paper's searches."""
    row = SEARCHES[constraint]
    return replace(space, blocks=row.blocks, max_parameters=row.max_parameters, max_macs=row.max_macs)


def known_constraint(settings: SearchConfig) -> Constraint | None:
    """Return the search of the paper that this one repeats; None if blocks or limits differ."""
    name = settings.constraint
    return name if name and constrain(settings.space, name) == settings.space else None


def starting_point(given: SearchConfig) -> SearchConfig:
    """Return the settings that the user's options override: those of an existing search or, without one, of the recipe.
    `given`: the given options of DECIDING, on top of the plain defaults.
    """
    if given.engine.may_have_begun:
        from rexnet.search.storage import saved_settings

        if saved := saved_settings(given.engine):
            moved = {name: getattr(given.engine, name) for name in ("output", "storage", "study")}
            return replace(saved, engine=replace(saved.engine, **moved))
    start = RECIPES[given.recipe]()
    if given.constraint:
        start = replace(start, space=constrain(start.space, given.constraint))
    if given.data == "digits":
        start = replace(start, images=replace(start.images, horizontal_flip=0.0))
    return start
