"""How channels rise from the first block to the last, whatever their number: the free variables of the search.

c_i = a f(i) + b (paper section 4): f is linear between a subset of the blocks, its knots, never falls, and is brought
to f(1) = 0 and f(d) = 1 here. What is drawn is f and the growth c_d / c_1; a and b follow from the limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

FLATTEST_SLOPE = -0.5
"""Slopes are drawn from here to 1 and count as 0 below it, so that a third of the pieces are flat, as stages are."""


class Trial(Protocol):
    """What draws the variables; optuna.Trial is one."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Channels up to a factor."""

    growth: float
    """Channels of the last block over those of the first."""
    profile: tuple[float, ...]
    """f of each block, from 0 to 1, never falling."""

    @property
    def heights(self) -> tuple[float, ...]:
        """Channels of each block over those of the first."""
        return tuple(1.0 + (self.growth - 1.0) * value for value in self.profile)

    def channels(self, first: float) -> tuple[int, ...]:
        """Whole channels of each block, at least 1, with `first` unrounded ones in the first block."""
        return tuple(max(1, int(first * height + 0.5)) for height in self.heights)


def straight(blocks: int, growth: float) -> Shape:
    """A straight line in the block index."""
    return Shape(growth=growth, profile=_profile([1.0] * (blocks - 1)))


def stage_wise(strides: Sequence[int], growth: float) -> Shape:
    """The convention: the same channels in all blocks of one resolution, and the same factor from each to the next."""
    stages = list(accumulate(int(stride > 1) for stride in strides))
    first, last = stages[0], stages[-1]
    if first == last or growth == 1.0:
        return straight(len(strides), growth)
    heights = [growth ** ((stage - first) / (last - first)) for stage in stages]
    return Shape(growth=growth, profile=tuple((height - 1.0) / (growth - 1.0) for height in heights))


def suggest_shape(trial: Trial, *, blocks: int, max_growth: float) -> Shape:
    """The shape that `trial` draws: the growth, a knot or none at each inner block, and the slope from there on."""
    growth = trial.suggest_float("growth", 1.0, max_growth, log=True)
    slopes: list[float] = []
    for block in range(1, blocks):
        knot = block == 1 or trial.suggest_int(f"knot_{block}", 0, 1)
        slope = trial.suggest_float(f"slope_{block}", FLATTEST_SLOPE, 1.0)
        slopes.append(max(0.0, slope) if knot else slopes[-1])
    return Shape(growth=growth, profile=_profile(slopes))


def shape_variables(shape: Shape) -> dict[str, float]:
    """What `suggest_shape` has to draw for this shape."""
    steps = [after - before for before, after in pairwise(shape.profile)]
    highest = max(steps)
    slopes = [step / highest for step in steps]
    variables: dict[str, float] = {"growth": shape.growth}
    for block, slope in enumerate(slopes, start=1):
        if block > 1:
            variables[f"knot_{block}"] = int(abs(slope - slopes[block - 2]) > 1e-9)
        variables[f"slope_{block}"] = slope
    return variables


def shape_of(channels: Sequence[int]) -> Shape:
    """The shape of channels that never fall. ValueError for others."""
    if len(channels) < 2 or channels[0] < 1 or any(after < before for before, after in pairwise(channels)):
        raise ValueError(f"channels are {list(channels)}; allowed: two or more, from 1 on, none below the one before")
    rise = channels[-1] - channels[0]
    if not rise:
        return straight(len(channels), 1.0)
    profile = tuple((value - channels[0]) / rise for value in channels)
    return Shape(growth=channels[-1] / channels[0], profile=profile)


def shape_from(variables: Mapping[str, float], *, blocks: int, max_growth: float) -> Shape:
    """The shape that drew these variables."""
    return suggest_shape(_Drawn(variables), blocks=blocks, max_growth=max_growth)


@dataclass(frozen=True)
class _Drawn:
    variables: Mapping[str, float]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self.variables[name]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.variables[name])


def _profile(slopes: Sequence[float]) -> tuple[float, ...]:
    """f from the slope between each block and the next; where all are flat, they count as equal."""
    total = sum(slopes)
    if not total:
        return _profile([1.0] * len(slopes))
    heights = tuple(accumulate(slopes, initial=0.0))
    return (*(height / heights[-1] for height in heights[:-1]), 1.0)
