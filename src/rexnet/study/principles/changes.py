"""Differences between a network and its rewritten form, and the reasons for them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from rexnet.models.config import RexNetConfig
from rexnet.study.principles.graph import Trace

Reason = Literal["line", "expand input", "activation", "penultimate", "budget"]
WHY: dict[Reason, str] = {
    "line": "channels grow by the same step from layer to layer, so that no layer expands much (section 3, rule 2)",
    "expand input": "the input of a layer that expands is widened (v1; section 3, rule 1)",
    "activation": "SiLU follows 1x1 and 3x3 convolutions; activations after depthwise ones stay (section 3, rule 3)",
    "penultimate": "more channels enter the classifier (v1)",
    "budget": "scaled, so that the multiply-accumulates stay the same",
}

Parts = dict[str, tuple[str, str]]
"""Channels, such as "64 -> 256", and subsequent activations of each layer or block, in order of execution."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A layer or block before and after the change."""

    layer: str
    before: str
    """Channels and activations before the change; "" for a new layer."""
    after: str
    reasons: tuple[Reason, ...]


def list_changes(before: Parts, after: Parts, reason_of: Callable[[str], Reason]) -> Iterator[Change]:
    """Yield every difference; `reason_of` returns why the channels of a layer differ."""
    for name, new in after.items():
        old = before.get(name)
        if old is None:
            yield Change(layer=name, before="", after=", ".join(new), reasons=("penultimate", "activation"))
        elif old != new:
            channels: tuple[Reason, ...] = () if old[0] == new[0] else (reason_of(name),)
            activations: tuple[Reason, ...] = () if old[1] == new[1] else ("activation",)
            yield Change(layer=name, before=", ".join(old), after=", ".join(new), reasons=channels + activations)


def chain_parts(config: RexNetConfig) -> Parts:
    parts = {"stem": (f"{config.in_channels} -> {config.stem_channels}", config.activation)}
    for place, block in enumerate(config.blocks):
        expands = block.expanded_channels != block.in_channels
        inside = [block.expanded_channels] if expands else []
        after = [block.expand_activation] if expands else []
        last = [] if block.out_activation == "identity" else [block.out_activation]
        channels = " -> ".join(map(str, [block.in_channels, *inside, block.out_channels]))
        parts[f"block {place}"] = channels, "/".join([*after, block.depthwise_activation, *last])
    if config.penultimate_channels:
        channels = f"{config.blocks[-1].out_channels} -> {config.penultimate_channels}"
        parts["penultimate"] = channels, config.activation
    return parts


def layer_parts(trace: Trace) -> Parts:
    return {
        operation.module: (f"{layer.in_channels} -> {layer.out_channels}", trace.activation_after(operation))
        for operation, layer in trace.layers()
    }
