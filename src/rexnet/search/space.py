"""Networks of a search: their fixed parts, their cost, and the widest channels that the limits allow."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, log, sqrt
from typing import TYPE_CHECKING, NamedTuple

from rexnet.errors import OptionError, require, require_at_least
from rexnet.search.shape import Line, Shape, Trial, suggest_shape

if TYPE_CHECKING:
    from rexnet.models.config import RexNetConfig

_HALVINGS = 30


class BodyCost(NamedTuple):
    """Cost of a network without its classifier, for one image."""

    parameters: int
    macs: int
    """Multiply-accumulates of convolutions, as `rexnet.models.cost` counts them."""
    norm_elements: int
    """Values that pass a batch norm."""

    @property
    def published_flops(self) -> int:
        """FLOPs as counted by the paper's search: MACs plus two operations for each value that passes a batch norm."""
        return self.macs + 2 * self.norm_elements


@dataclass(frozen=True, kw_only=True)
class Space:
    """Limits and fixed parts of all candidates. At least one limit is needed. Candidates stay within the limits without
    their classifier, whose size depends on the data."""

    blocks: int = 9
    """Number of linear bottlenecks of a network."""
    max_parameters: float | None = None
    """Maximum parameters, such as 0.2e6, without the classifier."""
    max_macs: float | None = None
    """Maximum multiply-accumulates for an image of --cost-size."""
    cost_size: int = 32
    """Size in pixels of the image for which multiply-accumulates are counted; training may use smaller ones."""
    min_share: float = 1.0
    """Minimum fraction of the limits that a candidate may use; below 1 if cost is an objective."""
    max_growth: float = 12.0
    """Maximum ratio of the last block's channels to the first's."""
    strided_blocks: tuple[int, ...] | None = None
    """Blocks with stride 2, counted from 1; None: at one third and two thirds, as in the published searches."""
    stem_channels: int = 16
    """Channels of the first convolution."""
    stem_stride: int = 1
    """Stride of the first convolution; 1 for images of 32 to 64 pixels, 2 for larger ones."""
    expand_ratio: int = 6
    """Channels inside a bottleneck over those that enter it."""
    penultimate_channels: int = 1280
    """Channels of the last convolution; 0 for none."""

    def __post_init__(self) -> None:
        require_at_least(self, 3, "blocks")
        for name in ("max_parameters", "max_macs"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "above 0, or None")
        require_at_least(self, 8, "cost_size")
        require_at_least(self, 1, "stem_channels", "expand_ratio")
        require_at_least(self, 0, "penultimate_channels")
        require(0 < self.min_share <= 1, "min_share", self.min_share, "above 0, up to 1")
        require(self.max_growth > 1, "max_growth", self.max_growth, "above 1")
        require(self.stem_stride in (1, 2), "stem_stride", self.stem_stride, "1, 2")
        strided = self.strided_blocks or ()
        rising = list(strided) == sorted({block for block in strided if 1 <= block <= self.blocks})
        require(rising, "strided_blocks", " ".join(map(str, strided)), f"ascending numbers from 1 to {self.blocks}")

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each block. Source: the paper's parameters and FLOPs match strides in blocks 2 and 3 of 5, 4 and 7
        of 9, and 5 and 9 of 13."""
        third = self.blocks // 3
        strided = (1 + third, 1 + 2 * third) if self.strided_blocks is None else self.strided_blocks
        return tuple(2 if block in strided else 1 for block in range(1, self.blocks + 1))

    def config(self, channels: Sequence[int], *, num_classes: int = 0, name: str | None = None) -> "RexNetConfig":
        """Return the network with these output channels of its blocks, named after them if there is no `name`."""
        from rexnet.models.config import BlockSpec, RexNetConfig

        if len(channels) != self.blocks:
            raise ValueError(f"{len(channels)} channels for {self.blocks} blocks; allowed: one for each block")
        specs = tuple(
            BlockSpec(
                in_channels=in_channels,
                expanded_channels=in_channels * self.expand_ratio,
                out_channels=out_channels,
                stride=stride,
                shortcut=stride == 1 and in_channels <= out_channels,
                expand_activation="relu6",
            )
            for in_channels, out_channels, stride in zip(
                [self.stem_channels, *channels], channels, self.strides, strict=False
            )
        )
        return RexNetConfig(
            name=name or "channels_" + "-".join(map(str, channels)),
            blocks=specs,
            stem_channels=self.stem_channels,
            stem_stride=self.stem_stride,
            activation="relu6",
            penultimate_channels=self.penultimate_channels,
            num_classes=num_classes,
            drop_rate=0.0,
        )

    def cost(self, channels: Sequence[int]) -> BodyCost:
        """Compute the cost in closed form, because sampling needs it a hundred times per candidate."""
        return BodyCost(*map(int, self._cost(channels)))

    def _cost(self, channels: Sequence[float]) -> tuple[float, float, float]:
        side = ceil(self.cost_size / self.stem_stride)
        in_channels: float = self.stem_channels
        parameters, macs, elements = 29 * in_channels, 27 * in_channels * side**2, in_channels * side**2
        for out_channels, stride in zip(channels, self.strides, strict=True):
            inside = in_channels * self.expand_ratio
            if inside != in_channels:
                parameters += in_channels * inside + 2 * inside
                macs += in_channels * inside * side**2
                elements += inside * side**2
            side = ceil(side / stride)
            parameters += 11 * inside + inside * out_channels + 2 * out_channels
            macs += (9 * inside + inside * out_channels) * side**2
            elements += (inside + out_channels) * side**2
            in_channels = out_channels
        wide = self.penultimate_channels
        if wide:
            parameters += in_channels * wide + 2 * wide
        return parameters, macs + in_channels * wide * side**2, elements + wide * side**2

    def fits(self, channels: Sequence[int], fraction: float = 1.0) -> bool:
        """Return True if a network stays within `fraction` of both limits."""
        cost = self.cost(channels)
        limits = (self.max_parameters, self.max_macs)
        return all(limit is None or spent <= fraction * limit for spent, limit in zip(cost, limits, strict=False))

    def widest(self, shape: Shape, fraction: float = 1.0) -> tuple[int, ...]:
        """Return the most channels of this shape within `fraction` of the limits, so that no sample is rejected.

        Two limits determine both unknowns of c_i = a f(i) + b, as in the paper: the growth is the one at which both
        limits are met. The growth of `shape` is used only if there is a single limit, or no such growth up to
        `max_growth`. Raise OptionError if not even one channel per block fits.
        """
        if self.max_parameters is None and self.max_macs is None:
            raise OptionError("there is no limit; give --max-parameters, --max-macs or --constraint")
        low, high = 0.0, 1.0
        if not self.fits(shape.channels(low), fraction):
            least = self.cost(shape.channels(low))
            limits = {"--max-parameters": self.max_parameters, "--max-macs": self.max_macs}
            given = " and ".join(f"{name} {limit:g}" for name, limit in limits.items() if limit is not None)
            raise OptionError(
                f"the limits are {given}{f' times {fraction:g} (--min-share)' if fraction < 1 else ''}; allowed: "
                f"{least.parameters:,} parameters and {least.macs:,} multiply-accumulates or more, the cost of a "
                "network with one channel per block"
            )
        shape = self._balance(shape, fraction)
        while self.fits(shape.channels(high), fraction):
            low, high = high, 2 * high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.fits(shape.channels(middle), fraction) else (low, middle)
        return shape.channels(low)

    def _balance(self, shape: Shape, fraction: float) -> Shape:
        """Return `shape` with the growth at which one width meets both limits, if there is one."""
        low, high = 0.0, log(self.max_growth)
        if not self._is_slack(shape, fraction, growth=1.0) or self._is_slack(shape, fraction, growth=self.max_growth):
            return shape
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            slack = self._is_slack(shape, fraction, growth=exp(middle))
            low, high = (middle, high) if slack else (low, middle)
        return replace(shape, growth=exp(low))

    def _is_slack(self, shape: Shape, fraction: float, *, growth: float) -> bool:
        """Return True if a network of this growth reaches the MACs limit before the parameter limit."""
        if self.max_parameters is None or self.max_macs is None:
            return False
        heights = replace(shape, growth=growth).heights
        # Cost is quadratic in the width: three widths determine it, without rounding to integer channels.
        costs = zip(*(self._cost([width * height for height in heights])[:2] for width in (0.0, 1.0, 2.0)), strict=True)
        limits = (fraction * self.max_parameters, fraction * self.max_macs)
        by_parameters, by_macs = (_width_at(limit, *cost) for limit, cost in zip(limits, costs, strict=True))
        return by_macs < by_parameters

    def suggest(self, trial: Trial) -> tuple[int, ...]:
        """Sample channels."""
        shape = suggest_shape(trial, blocks=self.blocks, max_growth=self.max_growth)
        fraction = 1.0 if self.min_share == 1.0 else trial.suggest_float("share", self.min_share, 1.0, log=True)
        return self.widest(shape, fraction)


def scaled_config(line: Line, space: Space, *, width: float, num_classes: int = 0) -> "RexNetConfig":
    """Return a member of the family of a line: its channels and the last convolution times `width`, and the stem too
    above width 1, as in ReXNet (paper section 4.2)."""
    channels = line.channels(space.blocks, width=width)
    scaled = replace(
        space,
        stem_channels=round(space.stem_channels * max(1.0, width)),
        penultimate_channels=round(space.penultimate_channels * width),
    )
    return scaled.config(channels, num_classes=num_classes, name=f"line_{100 * width:03.0f}")


def _width_at(limit: float, at_zero: float, at_one: float, at_two: float) -> float:
    """Return the positive width at which the parabola through these three values reaches `limit`."""
    square = (at_two - 2 * at_one + at_zero) / 2
    linear = at_one - at_zero - square
    return (sqrt(linear**2 + 4 * square * (limit - at_zero)) - linear) / (2 * square)
