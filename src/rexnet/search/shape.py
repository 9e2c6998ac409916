"""Shapes of channels from the first block to the last, up to a factor: those to search, and straight lines.

c_i = a f(i) + b (paper section 4): f is piecewise linear between a subset of the blocks, its knots, non-decreasing, and
scaled to f(1) = 0 and f(d) = 1 here. A trial samples f and the growth c_d / c_1; a and b follow from the limits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol

FLATTEST_SLOPE = -0.5
"""Slopes are sampled from this value to 1, and negative ones count as 0, so that a third of the pieces are flat, like
stages."""


class Trial(Protocol):
    """Source of the free variables, such as optuna.Trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape of the channels, up to a factor."""

    growth: float
    """Channels of the last block over those of the first."""
    profile: tuple[float, ...]
    """Values of f for each block, from 0 to 1, non-decreasing."""

    @property
    def heights(self) -> tuple[float, ...]:
        """Channels of each block over those of the first."""
        return tuple(1.0 + (self.growth - 1.0) * value for value in self.profile)

    def channels(self, first: float) -> tuple[int, ...]:
        """Return the integer channels of each block, at least 1, for `first` unrounded channels in the first block."""
        return tuple(max(1, int(first * height + 0.5)) for height in self.heights)


def straight(blocks: int, growth: float) -> Shape:
    """Return the shape of a straight line in the block index."""
    return Shape(growth=growth, profile=_integrate([1.0] * (blocks - 1)))


def stage_wise(strides: Sequence[int], growth: float) -> Shape:
    """Return the stage-wise convention: equal channels at one resolution, equal factors between resolutions."""
    stages = list(accumulate(int(stride > 1) for stride in strides))
    first, last = stages[0], stages[-1]
    if first == last or growth == 1.0:
        return straight(len(strides), growth)
    heights = [growth ** ((stage - first) / (last - first)) for stage in stages]
    return Shape(growth=growth, profile=tuple((height - 1.0) / (growth - 1.0) for height in heights))


def suggest_shape(trial: Trial, *, blocks: int, max_growth: float) -> Shape:
    """Sample a shape: the growth, at each inner block a knot or none, and the slope from a knot on."""
    growth = trial.suggest_float("growth", 1.0, max_growth, log=True)
    slopes: list[float] = []
    for block in range(1, blocks):
        knot = block == 1 or trial.suggest_int(f"knot_{block}", 0, 1)
        slope = trial.suggest_float(f"slope_{block}", FLATTEST_SLOPE, 1.0)
        slopes.append(max(0.0, slope) if knot else slopes[-1])
    return Shape(growth=growth, profile=_integrate(slopes))


def shape_variables(shape: Shape) -> dict[str, float]:
    """Return the variables from which `suggest_shape` makes this shape."""
    steps = [after - before for before, after in pairwise(shape.profile)]
    highest = max(steps)
    slopes = [step / highest for step in steps]
    variables: dict[str, float] = {"growth": shape.growth}
    for block, slope in enumerate(slopes, start=1):
        if block > 1:
            variables[f"knot_{block}"] = int(abs(slope - slopes[block - 2]) > 1e-9)
        variables[f"slope_{block}"] = slope
    return variables


def _integrate(slopes: Sequence[float]) -> tuple[float, ...]:
    """Return f from the slope between each block and the next; if all slopes are 0, they count as equal."""
    total = sum(slopes)
    if not total:
        return _integrate([1.0] * len(slopes))
    heights = tuple(accumulate(slopes, initial=0.0))
    return (*(height / heights[-1] for height in heights[:-1]), 1.0)


class Line(NamedTuple):
    """The linear rule c_i = slope * i + offset, with blocks counted from 1."""

    slope: float
    offset: float
    residual: float = 0.0
    """Root mean square distance of the fitted channels from the line, over the mean of the channels."""

    def channels(self, blocks: int, *, width: float = 1.0) -> tuple[int, ...]:
        """Return the integer channels of each block, `width` times those of the line. Raise ValueError for any below
        1."""
        values = [width * (self.slope * block + self.offset) for block in range(1, blocks + 1)]
        if not all(map(math.isfinite, values)) or min(map(round, values)) < 1:
            raise ValueError(
                f"the line has {min(values):.3g} channels at width {width:g}; allowed: 1 or more in each block"
            )
        return tuple(map(round, values))


def fit_line(channels: Sequence[float]) -> Line:
    """Fit a line by least squares. Raise ValueError for fewer than two blocks, and for values that are not above 0."""
    import numpy as np

    if len(channels) < 2:
        raise ValueError(f"the number of channels is {len(channels)}; allowed: two or more, one for each block")
    values = np.asarray(channels, dtype=np.float64)
    if not ((values > 0) & (values < np.inf)).all():
        raise ValueError(f"channels are {list(channels)}; allowed: finite numbers above 0")
    blocks = np.arange(1, len(values) + 1)
    slope, offset = np.polyfit(blocks, values, 1)
    distance = values - (slope * blocks + offset)
    return Line(float(slope), float(offset), float(np.sqrt(np.mean(distance**2)) / values.mean()))
