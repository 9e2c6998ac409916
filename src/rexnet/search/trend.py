"""The linear rule: how near channels are to a straight line in the block index, and networks made of such a line."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rexnet.models.config import RexNetConfig
from rexnet.search.space import Space


class Line(NamedTuple):
    """c_i = slope * i + offset, blocks counted from 1."""

    slope: float
    offset: float
    residual: float = 0.0
    """Of the channels it was fitted to: root mean square distance from the line over the mean of the channels."""

    def channels(self, blocks: int, *, width: float = 1.0) -> tuple[int, ...]:
        """Whole channels of each block, `width` times those of the line. ValueError where one would be below 1."""
        values = [width * (self.slope * block + self.offset) for block in range(1, blocks + 1)]
        if not all(map(math.isfinite, values)) or min(map(round, values)) < 1:
            raise ValueError(
                f"the line has {min(values):.3g} channels at width {width:g}; allowed: 1 or more in each block"
            )
        return tuple(map(round, values))


def fit_line(channels: Sequence[float]) -> Line:
    """Least squares. ValueError for fewer than two blocks, and for channels that are no numbers above 0."""
    if len(channels) < 2:
        raise ValueError(f"{len(channels)} channels make no line; allowed: two or more")
    values = np.asarray(channels, dtype=np.float64)
    if not ((values > 0) & (values < np.inf)).all():
        raise ValueError(f"channels are {list(channels)}; allowed: finite numbers above 0")
    blocks = np.arange(1, len(values) + 1)
    slope, offset = np.polyfit(blocks, values, 1)
    distance = values - (slope * blocks + offset)
    return Line(float(slope), float(offset), float(np.sqrt(np.mean(distance**2)) / values.mean()))


def scaled_config(line: Line, space: Space, *, width: float, num_classes: int = 0) -> RexNetConfig:
    """A member of the family that a line founds: its channels and the last convolution times `width`, and the stem too
    above width 1, as in ReXNet (paper section 4.2)."""
    channels = line.channels(space.blocks, width=width)
    scaled = replace(
        space,
        stem_channels=round(space.stem_channels * max(1.0, width)),
        penultimate_channels=round(space.penultimate_channels * width),
    )
    return scaled.config(channels, num_classes=num_classes, name=f"line_{100 * width:03.0f}")
