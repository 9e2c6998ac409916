"""The first version's changes to networks of dense convolutions, such as ResNet50 and VGG16: their own modules with
other numbers."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from rexnet.models.blocks import NormConfig, SiLU, conv_norm_activation
from rexnet.study.principles.advice import SIMPLE
from rexnet.study.principles.bottlenecks import is_pointwise, layer_of
from rexnet.study.principles.changes import Parts, Reason
from rexnet.study.principles.tracing import Operation, Trace
from rexnet.study.principles.widths import ChannelGroups, channel_groups, resize

LEAST_EXPAND_RATIO = 1 / 3
"""Input over output channels that an expand layer gets; ours, the paper gives no number. ResNet50 has 1/4."""
PENULTIMATE_GAIN = 1.25
"""Channels that enter the classifier over those that did; ours, the paper gives no number."""

_SIMPLE_MODULES = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh)


@dataclass(frozen=True, kw_only=True)
class DensePlan:
    """What is changed, up to a scale."""

    trace: Trace
    groups: ChannelGroups
    shares: dict[str, tuple[float, Reason]]
    """By group its channels before scaling, and why."""
    fixed: dict[str, tuple[int, Reason]]
    """By group the channels that do not scale."""
    pool: str | None
    """The module that pools for the classifier, before which a penultimate convolution is put."""
    activations: frozenset[str]
    """Modules that become SiLU."""
    left: tuple[str, ...]
    """What should change by the rules and cannot."""

    def reason_of(self, layer: str) -> Reason:
        """Why the channels of a layer change: those that it puts out, or else those that it reads."""
        *_, (classifier, _) = self.trace.layers()
        if layer == classifier.module and (self.pool or self.fixed):
            return "penultimate"
        for group in (self.groups.of_layer[layer], self.groups.read_by[layer] or ""):
            if changed := self.shares.get(group) or self.fixed.get(group):
                return changed[1]
        return "budget"

    def apply(self, model: Any, scale: float) -> None:
        """Changes `model`, which is like the one that was traced, in place."""
        scaled = {group: max(1, round(scale * share)) for group, (share, _) in self.shares.items()}
        widths = {**scaled, **{group: width for group, (width, _) in self.fixed.items()}}
        resize(model, self.trace, self.groups, widths)
        for name in self.activations:
            model.set_submodule(name, SiLU())
        if self.pool is not None:
            self._add_penultimate(model, self.pool, widths)

    def _add_penultimate(self, model: Any, pool: str, widths: dict[str, int]) -> None:
        classifier, _ = list(self.trace.layers())[-1]
        source = self.groups.read_by[classifier.module]
        assert source is not None
        before = self.groups.widths[source]
        outputs = round(PENULTIMATE_GAIN * before)
        parts = conv_norm_activation(
            nn.Conv2d(widths[source], outputs, 1, bias=False), norm=NormConfig(), activation="silu"
        )
        device = next(model.parameters()).device
        model.set_submodule(pool, nn.Sequential(*parts, model.get_submodule(pool)).to(device))
        last = model.get_submodule(classifier.module)
        features = layer_of(classifier).in_channels // before * outputs
        replaced = type(last)(features, last.out_features, bias=last.bias is not None)
        model.set_submodule(classifier.module, replaced.to(device))
        if hasattr(model, "num_features"):  # which timm's reset_classifier reads
            model.num_features = outputs


def plan_dense(model: nn.Module, trace: Trace) -> DensePlan:
    """What the rules change in a network of dense convolutions. ValueError where its widths are not free."""
    groups = channel_groups(trace)
    maps = list(dict.fromkeys(groups.of_layer[op.module] for op, _ in trace.layers() if not op.pooled))
    chain = not any(operation.role in ("sum", "gate") for operation in trace.operations)
    classifier, _ = list(trace.layers())[-1]
    penultimate = groups.read_by[classifier.module]
    if not classifier.pooled or penultimate is None:
        raise ValueError("the network ends in no classifier")
    fixed: dict[str, tuple[int, Reason]] = {}
    pool, left = None, []
    if penultimate in maps:
        pool = _pool_before(model, trace, classifier)
        if pool is None:
            left.append(f"{classifier.module}: what it reads is pooled by no module, and so stays")
    else:
        fixed[penultimate] = round(PENULTIMATE_GAIN * groups.widths[penultimate]), "penultimate"
    activations, functions = _simple_activations(model, trace)
    return DensePlan(
        trace=trace,
        groups=groups,
        shares=_line(groups, maps) if chain else _expand_inputs(trace, groups, maps),
        fixed=fixed,
        pool=pool,
        activations=activations,
        left=(
            *left,
            *(f"{name}: its activation is no module of its own, and so stays" for name in dict.fromkeys(functions)),
        ),
    )


def _line(groups: ChannelGroups, maps: list[str]) -> dict[str, tuple[float, Reason]]:
    """A chain without sums: every layer is free, and so on the line from the first width to the last."""
    first, last = groups.widths[maps[0]], groups.widths[maps[-1]]
    step = (last - first) / max(1, len(maps) - 1)
    return {group: (first + step * place, "line") for place, group in enumerate(maps)}


def _expand_inputs(trace: Trace, groups: ChannelGroups, maps: list[str]) -> dict[str, tuple[float, Reason]]:
    """Sums tie the narrow or wide ends of the blocks together; what is inside is free to be wider."""
    tied = {group for group in maps if len(groups.members(group)) > 1}
    shares: dict[str, tuple[float, Reason]] = {group: (groups.widths[group], "budget") for group in maps}
    for operation, layer in trace.layers():
        source = groups.read_by[operation.module]
        if is_pointwise(operation) and layer.ratio < LEAST_EXPAND_RATIO and source in shares and source not in tied:
            shares[source] = LEAST_EXPAND_RATIO * layer.out_channels, "expand input"
    return shares


def _pool_before(model: nn.Module, trace: Trace, classifier: Operation) -> str | None:
    """The module that makes one vector of the last feature map."""
    here = classifier
    while here.pooled and here.inputs and here.inputs[0] >= 0:
        before = trace.operations[here.inputs[0]]
        if not before.pooled:
            module = model.get_submodule(here.module)
            return here.module if here.module and "pool" in type(module).__name__.lower() else None
        here = before
    return None


def _simple_activations(model: nn.Module, trace: Trace) -> tuple[frozenset[str], list[str]]:
    """Modules to be replaced, and modules that call a function in their place.

    An activation after a sum is one after the convolutions that were added.
    """
    modules, functions = set(), []
    for operation in trace.operations:
        if operation.role != "activation" or operation.pooled or operation.word not in SIMPLE:
            continue
        if isinstance(model.get_submodule(operation.module), _SIMPLE_MODULES):
            modules.add(operation.module)
        else:
            functions.append(operation.module or "the network itself")
    return frozenset(modules), functions


def layer_parts(trace: Trace) -> Parts:
    return {
        operation.module: (f"{layer.in_channels} -> {layer.out_channels}", trace.activation_after(operation))
        for operation, layer in trace.layers()
    }
