"""The paper's design principles as rules that a network's layers keep or break."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import nn

from rexnet.study.advice_config import Limits
from rexnet.study.principles.graph import UNSEEN, Layer, Operation, Trace, find_bottlenecks, layer_of
from rexnet.study.principles.tracing import trace

Rule = Literal["expansion", "block ratio", "activation", "penultimate"]
RULES: dict[Rule, str] = {
    "expansion": "a 1x1 convolution before a spatial one expands its input at most 6 times (section 3, rule 1)",
    "block ratio": "input and output channels of a depthwise block are nearly equal in number (section 3, rule 2)",
    "activation": "SiLU, ELU or the like follow 1x1 and 3x3 convolutions, but not depthwise ones (section 3, rule 3)",
    "penultimate": "the classifier's input has at least as many channels as there are classes (v1; softmax bottleneck)",
}
SIMPLE = ("relu", "relu6", "leaky_relu", "prelu", "hardtanh")
"""Piecewise linear activations, which expand the rank the least in the paper's Fig. 1."""
COMPLICATED = ("silu", "hardswish", "elu", "softplus", "gelu", "mish")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A layer that breaks a rule."""

    layer: str
    kind: str
    in_channels: int
    out_channels: int
    macs: int
    rule: Rule
    found: str
    """Value of the layer that breaks the rule: a number, or an activation."""
    remedy: str

    @property
    def ratio(self) -> float:
        """Input over output channels of the layer or, for "block ratio", of its block."""
        return 1.0 if "depthwise" in self.kind else self.in_channels / self.out_channels


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Layers that break the rules, in order of execution."""

    findings: tuple[Finding, ...]
    layers: int
    blocks: int
    """Number of blocks with a depthwise convolution."""
    macs: int
    image_size_px: int
    unseen: tuple[str, ...] = field(default=())
    """Layers with an unknown activation, to which the rule about activations is not applied."""

    def by_rule(self) -> dict[Rule, int]:
        """Count the findings of each rule."""
        counts = Counter(finding.rule for finding in self.findings)
        return {rule: counts[rule] for rule in RULES}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        findings = [{**asdict(finding), "ratio": round(finding.ratio, 6)} for finding in self.findings]
        return {**asdict(self), "findings": findings, "by_rule": self.by_rule(), "rules": RULES}


def advise(model: nn.Module, *, image_size_px: int = 224, limits: Limits | None = None) -> Advice:
    """Find the layers of a network that break a rule. Raise ValueError for a network that cannot be traced on an
    image."""
    found = trace(model, image_size_px)
    layers = list(found.layers())
    blocks = list(find_bottlenecks(found))
    limits = limits or Limits()
    findings = [*_expansions(found, limits), *_block_ratios(found, limits), *_activations(found), *_penultimate(layers)]
    places = {operation.module: place for place, (operation, _) in enumerate(layers)}
    return Advice(
        findings=tuple(sorted(findings, key=lambda finding: places[finding.layer])),
        layers=len(layers),
        blocks=len(blocks),
        macs=found.macs(),
        image_size_px=image_size_px,
        unseen=tuple(
            operation.module
            for operation, layer in layers
            if layer.kind != "linear" and not operation.pooled and found.activation_after(operation) == UNSEEN
        ),
    )


def _finding(operation: Operation, rule: Rule, *, found: str, remedy: str, in_channels: int | None = None) -> Finding:
    layer = layer_of(operation)
    return Finding(
        layer=operation.module,
        kind=layer.kind,
        in_channels=in_channels or layer.in_channels,
        out_channels=layer.out_channels,
        macs=layer.macs,
        rule=rule,
        found=found,
        remedy=remedy,
    )


def _expansions(trace: Trace, limits: Limits) -> Iterator[Finding]:
    for operation, layer in trace.layers():
        expansion = layer.out_channels / layer.in_channels
        if not operation.pointwise or expansion <= limits.greatest_expansion:
            continue
        if any(layer_of(follower).kernel_size > 1 for follower in trace.next_layers(operation)):
            least = -(-layer.out_channels // limits.greatest_expansion)
            remedy = f"input of {least:.0f} or more"
            yield _finding(operation, "expansion", found=f"expansion {expansion:.1f}", remedy=remedy)


def _block_ratios(trace: Trace, limits: Limits) -> Iterator[Finding]:
    blocks = list(find_bottlenecks(trace))
    first, last = (blocks[0].out_channels, blocks[-1].out_channels) if blocks else (0, 0)
    step = (last - first) / max(1, len(blocks) - 1)
    for place, block in enumerate(blocks):
        if block.ratio < limits.least_block_ratio:
            before, after = (round(first + step * index) for index in (place - 1, place))
            yield _finding(
                block.project,
                "block ratio",
                found=f"block ratio {block.ratio:.2f}",
                remedy=_on_the_line(block.ratio, before, after) if place else "wider input or narrower output",
                in_channels=block.in_channels,
            )


def _on_the_line(ratio: float, before: int, after: int) -> str:
    """Return the channels of a block on a straight line between the output channels of the first and the last block;
    with few channels, the line has low ratios too."""
    if before < 1.05 * ratio * after:
        return "a straight line is not better"
    return f"line: {before} -> {after}"


def _activations(trace: Trace) -> Iterator[Finding]:
    for operation, layer in trace.layers():
        if operation.pooled:
            continue
        activation = trace.activation_after(operation)
        if layer.depthwise and activation in COMPLICATED:
            remedy = "ReLU6"
            yield _finding(operation, "activation", found=f"{activation} after depthwise", remedy=remedy)
        elif layer.dense and layer.kind != "linear" and activation in SIMPLE:
            yield _finding(operation, "activation", found=f"{activation} after {layer.kind}", remedy="SiLU")


def _penultimate(layers: list[tuple[Operation, Layer]]) -> Iterator[Finding]:
    operation, layer = layers[-1]
    if operation.pooled and layer.ratio < 1:
        remedy = f"{layer.out_channels} or more before it"
        yield _finding(operation, "penultimate", found=f"penultimate {layer.ratio:.2f}", remedy=remedy)
