"""A known network rewritten by the paper's principles at equal cost."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any

from torch import nn

from rexnet.models.config import RexNetConfig
from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet
from rexnet.study.principles.chains import apply_rules, chain_cost, read_chain, widen_penultimate
from rexnet.study.principles.changes import WHY, Change, Reason, chain_parts, layer_parts, list_changes
from rexnet.study.principles.dense import plan_dense
from rexnet.study.principles.graph import Trace
from rexnet.study.principles.tracing import image_channels, trace

_TOLERANCE = 0.0025
"""Relative error of the multiply-accumulates at which the search stops."""
_FARTHEST = 0.02
"""Maximum accepted error, since integer channels may not allow a smaller one."""
_STEPS = 16


@dataclass(frozen=True, kw_only=True)
class Size:
    """Cost of a network; every parameter counts, including those of modules unknown to `measure_cost`."""

    macs: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Rewriting:
    """The changes to a network, their reasons, and its cost before and after."""

    changes: tuple[Change, ...]
    before: Size
    after: Size
    image_size_px: int
    left: tuple[str, ...] = ()
    """Sentences about layers that break a rule but cannot be changed."""
    config: RexNetConfig | None = None
    """Config of a rewritten network that is a list of BlockSpec."""

    @property
    def why(self) -> dict[Reason, str]:
        """Distinct reasons, as sentences."""
        reasons = {reason for change in self.changes for reason in change.reasons}
        return {reason: text for reason, text in WHY.items() if reason in reasons}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "why": self.why}


def rewrite(model: nn.Module, *, image_size_px: int = 224, name: str = "rewritten") -> tuple[nn.Module, Rewriting]:
    """Return a network that follows the rules at the multiply-accumulates of `model` at this size, and the report.

    A chain of depthwise blocks (MobileNetV1, V2) becomes a RexNet named `name`; a network of dense convolutions
    (ResNet50, VGG16) keeps its modules, with other channel counts. All changed layers get random weights. Raise
    ValueError for a network that is neither.
    """
    found = trace(model, image_size_px)
    if (chain := read_chain(model, found, image_size_px)) is not None:
        return _rewrite_chain(model, chain, image_size_px, name)
    if any(layer.depthwise for _, layer in found.layers()):
        raise ValueError(
            "the network has depthwise convolutions but is not a chain of stem, blocks without gates, 1x1 convolution "
            "and classifier; allowed: such chains, and networks of dense convolutions"
        )
    return _rewrite_dense(model, found, image_size_px)


def _rewrite_chain(model: nn.Module, chain: RexNetConfig, image_size_px: int, name: str) -> tuple[nn.Module, Rewriting]:
    before = chain_cost(chain, image_size_px)

    def at(step: float) -> RexNetConfig:
        return widen_penultimate(apply_rules(chain, step), before.parameters, image_size_px)

    steep = 2 * max(block.out_channels for block in chain.blocks) / len(chain.blocks)
    step = solve(lambda value: chain_cost(at(value), image_size_px).macs, before.macs, greatest=steep)
    made = replace(at(step), name=name)
    network = RexNet(made)
    wider = made.penultimate_channels > chain.penultimate_channels

    def reason_of(part: str) -> Reason:
        return "penultimate" if part == "penultimate" and wider else "line"

    report = Rewriting(
        changes=tuple(list_changes(chain_parts(chain), chain_parts(made), reason_of)),
        before=measure_size(model, image_size_px),
        after=measure_size(network, image_size_px),
        image_size_px=image_size_px,
        config=made,
    )
    return network, report


def _rewrite_dense(model: nn.Module, found: Trace, image_size_px: int) -> tuple[nn.Module, Rewriting]:
    plan = plan_dense(model, found)
    shapes = deepcopy(model).to("meta")

    def at(scale: float, start: nn.Module) -> nn.Module:
        scaled = deepcopy(start)
        plan.apply(scaled, scale)
        return scaled

    before = measure_size(model, image_size_px)
    scale = solve(lambda value: measure_size(at(value, shapes), image_size_px).macs, before.macs, greatest=2.0)
    network = at(scale, model)
    report = Rewriting(
        changes=tuple(list_changes(layer_parts(found), layer_parts(trace(network, image_size_px)), plan.reason_of)),
        before=before,
        after=measure_size(network, image_size_px),
        image_size_px=image_size_px,
        left=plan.left,
    )
    return network, report


def solve(cost: Callable[[float], int], target: int, *, greatest: float) -> float:
    """Find where the rising `cost` is nearest to `target` between 0 and `greatest`.

    The square root of a roughly quadratic cost is nearly linear, so a few steps suffice.
    """
    ends = [(place, sqrt(cost(place))) for place in (0.0, greatest)]
    best = min(ends, key=lambda end: abs(end[1] - sqrt(target)))
    for _ in range(_STEPS):
        (low, under), (high, over) = ends
        if abs(best[1] ** 2 - target) <= _TOLERANCE * target or not under < sqrt(target) < over:
            break
        fraction = (sqrt(target) - under) / (over - under)
        middle = low + (high - low) * min(max(fraction, 0.05), 0.95)
        found = (middle, sqrt(cost(middle)))
        best = min(best, found, key=lambda end: abs(end[1] - sqrt(target)))
        ends = [found, ends[1]] if found[1] < sqrt(target) else [ends[0], found]
    if abs(best[1] ** 2 - target) > _FARTHEST * target:
        raise ValueError(f"no width comes within 2 % of {target / 1e6:.1f} M multiply-accumulates; it is too small")
    return best[0]


def measure_size(model: nn.Module, image_size_px: int) -> Size:
    cost = measure_cost(model, image_size_px, image_channels(model))
    return Size(macs=cost.macs, parameters=sum(parameter.numel() for parameter in model.parameters()))
