"""A known network rewritten by the paper's principles at the cost it had."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any

from torch import nn

from rexnet.models.blocks import BlockSpec
from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet, RexNetConfig
from rexnet.study.principles.chains import by_the_rules, chain_cost, read_chain, with_parameters
from rexnet.study.principles.dense import DensePlan, plan_dense
from rexnet.study.principles.reasons import WHY, Reason
from rexnet.study.principles.tracing import Trace, image_channels, trace

_TOLERANCE = 0.001
"""Of the multiply-accumulates: near enough to stop. What whole channels allow may be further off, to _FARTHEST."""
_FARTHEST = 0.02
_STEPS = 16


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of a layer or block."""

    layer: str
    before: str
    """Channels, and the activations that follow; "" for a layer that is new."""
    after: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, kw_only=True)
class Size:
    macs: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Rewriting:
    """What was changed and why, and what it costs."""

    changes: tuple[Change, ...]
    before: Size
    after: Size
    image_size_px: int
    left: tuple[str, ...] = ()
    """What should change by the rules and cannot."""
    config: RexNetConfig | None = None
    """Of a network that is a list of BlockSpec now."""

    @property
    def why(self) -> dict[Reason, str]:
        """The reasons that occur, in sentences."""
        reasons = {reason for change in self.changes for reason in change.reasons}
        return {reason: text for reason, text in WHY.items() if reason in reasons}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "why": self.why}


def rewrite(model: nn.Module, *, image_size_px: int = 224, name: str = "rewritten") -> tuple[nn.Module, Rewriting]:
    """The network by the rules with the multiply-accumulates it has at this size, and the report; `model` stays.

    A chain of depthwise blocks (MobileNetV1, V2) becomes a RexNet of that `name`; a network of dense convolutions
    (ResNet50, VGG16) keeps its modules, with other numbers. All layers that change begin with random weights.
    ValueError, one sentence, for a network that is neither.
    """
    found = trace(model, image_size_px)
    if (chain := read_chain(model, found, image_size_px)) is not None:
        return _rewrite_chain(model, chain, image_size_px, name)
    if any(layer.depthwise for _, layer in found.layers()):
        raise ValueError(
            "the network has depthwise convolutions but is no chain of stem, blocks without gates, 1x1 convolution and "
            "classifier; allowed: such chains, and networks of dense convolutions"
        )
    return _rewrite_dense(model, found, image_size_px)


def _rewrite_chain(model: nn.Module, chain: RexNetConfig, image_size_px: int, name: str) -> tuple[nn.Module, Rewriting]:
    before = chain_cost(chain, image_size_px)

    def at(step: float) -> RexNetConfig:
        return with_parameters(by_the_rules(chain, step), before.parameters, image_size_px)

    widest = max(block.out_channels for block in chain.blocks)
    step = solve(lambda value: chain_cost(at(value), image_size_px).macs, before.macs, greatest=float(widest))
    made = replace(at(step), name=name)
    network = RexNet(made)
    report = Rewriting(
        changes=tuple(_chain_changes(chain, made)),
        before=size(model, image_size_px),
        after=size(network, image_size_px),
        image_size_px=image_size_px,
        config=made,
    )
    return network, report


def _rewrite_dense(model: nn.Module, found: Trace, image_size_px: int) -> tuple[nn.Module, Rewriting]:
    plan = plan_dense(model, found)
    shapes = deepcopy(model).to("meta")

    def at(scale: float, start: nn.Module) -> nn.Module:
        changed = deepcopy(start)
        plan.apply(changed, scale)
        return changed

    before = size(model, image_size_px)
    scale = solve(lambda value: size(at(value, shapes), image_size_px).macs, before.macs, greatest=2.0)
    network = at(scale, model)
    report = Rewriting(
        changes=tuple(_dense_changes(plan, trace(network, image_size_px))),
        before=before,
        after=size(network, image_size_px),
        image_size_px=image_size_px,
        left=plan.left,
    )
    return network, report


def solve(cost: Callable[[float], int], target: int, *, greatest: float) -> float:
    """Where the rising `cost` is nearest to `target` between 0 and `greatest`.

    A cost that grows about with the square is nearly straight under the root, and so found in a few steps.
    """
    ends = [(place, sqrt(cost(place))) for place in (0.0, greatest)]
    best = min(ends, key=lambda end: abs(end[1] - sqrt(target)))
    for _ in range(_STEPS):
        (low, under), (high, over) = ends
        if abs(best[1] ** 2 - target) <= _TOLERANCE * target or not under < sqrt(target) < over:
            break
        share = (sqrt(target) - under) / (over - under)
        middle = low + (high - low) * min(max(share, 0.05), 0.95)
        found = (middle, sqrt(cost(middle)))
        best = min(best, found, key=lambda end: abs(end[1] - sqrt(target)))
        ends = [found, ends[1]] if found[1] < sqrt(target) else [ends[0], found]
    if abs(best[1] ** 2 - target) > _FARTHEST * target:
        raise ValueError(f"no width comes within 2 % of {target / 1e6:.1f} M multiply-accumulates; it is too small")
    return best[0]


def size(model: nn.Module, image_size_px: int) -> Size:
    cost = measure_cost(model, image_size_px, image_channels(model))
    return Size(macs=cost.macs, parameters=sum(parameter.numel() for parameter in model.parameters()))


def _chain_changes(before: RexNetConfig, after: RexNetConfig) -> Iterator[Change]:
    stems = [f"{config.in_channels} -> {config.stem_channels}, {config.activation}" for config in (before, after)]
    if stems[0] != stems[1]:
        yield Change(layer="stem", before=stems[0], after=stems[1], reasons=("activation",))
    for place, (old, new) in enumerate(zip(before.blocks, after.blocks, strict=True)):
        reasons: list[Reason] = []
        if (old.in_channels, old.out_channels) != (new.in_channels, new.out_channels):
            reasons.append("line")
        if _activations(old) != _activations(new):
            reasons.append("activation")
        if reasons:
            yield Change(layer=f"block {place}", before=_block(old), after=_block(new), reasons=tuple(reasons))
    if not before.penultimate_channels:
        return
    reasons: list[Reason] = ["penultimate"] if before.penultimate_channels != after.penultimate_channels else []
    reasons += ["activation"] if before.activation != after.activation else []
    if reasons:
        old, new = (
            f"{config.blocks[-1].out_channels} -> {config.penultimate_channels}, {config.activation}"
            for config in (before, after)
        )
        yield Change(layer="penultimate", before=old, after=new, reasons=tuple(reasons))


def _activations(block: BlockSpec) -> str:
    expand = [] if block.expanded_channels == block.in_channels else [block.expand_activation]
    project = [] if block.out_activation == "identity" else [block.out_activation]
    return "/".join([*expand, block.depthwise_activation, *project])


def _block(block: BlockSpec) -> str:
    expanded = [] if block.expanded_channels == block.in_channels else [block.expanded_channels]
    return f"{' -> '.join(map(str, [block.in_channels, *expanded, block.out_channels]))}, {_activations(block)}"


def _dense_changes(plan: DensePlan, after: Trace) -> Iterator[Change]:
    old = {operation.module: _layer(plan.trace, operation) for operation, _ in plan.trace.layers()}
    for operation, _ in after.layers():
        name = operation.module
        text = _layer(after, operation)
        before = old.get(name)
        if before is None:
            yield Change(layer=name, before="", after=", ".join(text), reasons=("penultimate", "activation"))
            continue
        reasons: list[Reason] = []
        if before[0] != text[0]:
            reasons.append(plan.reason(name) or "penultimate")
        if before[1] != text[1]:
            reasons.append("activation")
        if reasons:
            yield Change(layer=name, before=", ".join(before), after=", ".join(text), reasons=tuple(reasons))


def _layer(trace: Trace, operation: Any) -> tuple[str, str]:
    layer = operation.layer
    return f"{layer.in_channels} -> {layer.out_channels}", trace.activation_after(operation)
