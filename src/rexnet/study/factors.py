"""The four networks of the paper's Table 2: two bottlenecks, changed one factor at a time, at equal cost.

Published are the three factors, MACs, top-1 and nuclear norm. Derived: with strides 2 and 2, the stem of 16 channels
and the last convolution to 1280 of the paper's search networks, the baseline's ratios give its MACs. Ours: the stem is
the one free number of each network, solved for its MACs; ReLU6 at stem and last convolution throughout.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from rexnet.models.blocks import BlockSpec
from rexnet.models.rexnet import RexNetConfig

IMAGE_PX = 32
STRIDE = 2
"""Of both bottlenecks."""
PENULTIMATE_CHANNELS = 1280
CLASSES = 100
"""For which the published MACs are counted."""
_MOST_CHANNELS = 4096


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A row of Table 2."""

    name: str
    title: str
    expansion: int
    """Expanded over input channels in both bottlenecks; the paper has its inverse, the ratio of the first 1x1
    convolution."""
    ratio: float
    """Input over output channels of both bottlenecks."""
    activation: str
    """After the expanding convolution."""
    macs: float
    """Published, as are the next two."""
    top1: float
    nuclear_norm: float


FACTORS = (
    Factor(
        name="baseline",
        title="baseline: 1x1 ratio 1/20, bottleneck ratio .22, ReLU6",
        expansion=20,
        ratio=0.22,
        activation="relu6",
        macs=103e6,
        top1=48.0,
        nuclear_norm=5997.5,
    ),
    Factor(
        name="expansion",
        title="+ 1x1 ratio 1/20 to 1/6",
        expansion=6,
        ratio=0.22,
        activation="relu6",
        macs=99e6,
        top1=52.1,
        nuclear_norm=6655.9,
    ),
    Factor(
        name="ratio",
        title="+ bottleneck ratio .22 to .8",
        expansion=6,
        ratio=0.8,
        activation="relu6",
        macs=105e6,
        top1=53.8,
        nuclear_norm=6703.2,
    ),
    Factor(
        name="activation",
        title="+ ReLU6 to SiLU",
        expansion=6,
        ratio=0.8,
        activation="silu",
        macs=105e6,
        top1=54.6,
        nuclear_norm=6895.9,
    ),
)
"""Each has the changes of all rows above it."""


def network(factor: Factor, *, scale: float = 1.0) -> RexNetConfig:
    """For images of 32 pixels, with `scale` times the published MACs.

    ValueError for a scale at which whole channels come nowhere near the ratios and MACs.
    """
    penultimate = round(PENULTIMATE_CHANNELS * scale**0.5)
    channels = _solve(factor.expansion, factor.ratio, macs=scale * factor.macs, penultimate=penultimate)
    blocks = tuple(
        BlockSpec(
            in_channels=before,
            expanded_channels=factor.expansion * before,
            out_channels=after,
            stride=STRIDE,
            expand_activation=factor.activation,
        )
        for before, after in pairwise(channels)
    )
    return RexNetConfig(
        name=f"two_bottlenecks_{factor.name}" + ("" if scale == 1 else f"_x{scale:g}"),
        blocks=blocks,
        stem_channels=channels[0],
        stem_stride=1,
        activation="relu6",
        penultimate_channels=penultimate,
        num_classes=CLASSES,
        drop_rate=0.0,
    )


@cache
def _solve(expansion: int, ratio: float, *, macs: float, penultimate: int) -> tuple[int, int, int]:
    """Channels of the stem and after each bottleneck for which the worst of three relative errors is least: that of
    the MACs and those of both ratios."""

    def error(channels: tuple[int, int, int]) -> float:
        found = count_macs(channels, expansion=expansion, penultimate=penultimate)
        ratios = (before / after / ratio - 1 for before, after in pairwise(channels))
        return max(abs(found / macs - 1), *map(abs, ratios))

    candidates = ((round(last * ratio**2), round(last * ratio), last) for last in range(1, _MOST_CHANNELS))
    best = min((channels for channels in candidates if channels[0]), key=error)
    if error(best) > 0.1:
        raise ValueError(
            f"with {macs / 1e6:.3g} M MACs no stem of whole channels comes within 10 % of ratio {ratio:g}; allowed: a "
            "scale nearer 1"
        )
    return best


def count_macs(channels: tuple[int, int, int], *, expansion: int, penultimate: int) -> int:
    """Of stem, bottlenecks, last convolution and classifier, as `measure_cost` counts them."""
    positions = IMAGE_PX**2
    total = positions * 3 * 3**2 * channels[0]
    for before, after in pairwise(channels):
        expanded = expansion * before
        total += positions * before * expanded
        positions //= STRIDE**2
        total += positions * expanded * (3**2 + after)
    return total + positions * channels[-1] * penultimate + penultimate * CLASSES
