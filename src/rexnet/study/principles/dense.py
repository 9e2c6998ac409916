"""Networks of dense convolutions, such as ResNet50 and VGG16, changed as in version 1 of the paper: their own modules,
resized in place."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rexnet.models.blocks import NormConfig, SiLU, conv_norm_activation
from rexnet.study.principles.advice import SIMPLE
from rexnet.study.principles.changes import Reason
from rexnet.study.principles.graph import Operation, Trace, layer_of

LEAST_EXPAND_RATIO = 1 / 3
"""Ratio of input to output channels of a changed expand layer; our choice, since the paper states no number. ResNet50
has 1/4."""
PENULTIMATE_GAIN = 1.25
"""Factor by which the channels before the classifier grow; our choice, since the paper states no number."""

_SIMPLE_MODULES = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh)


@dataclass(frozen=True, kw_only=True)
class ChannelGroups:
    """Groups of layers with the same number of output channels, because their outputs are added or multiplied."""

    of_layer: dict[str, str]
    """Group of each layer's output, named after the group's first layer."""
    read_by: dict[str, str | None]
    """Group of each layer's input; None is the image."""
    norms: dict[str, str]
    """Group that each batch norm works on."""
    widths: dict[str, int]
    """Channels of each group, in order of execution."""

    def members(self, group: str) -> list[str]:
        return [layer for layer, its_group in self.of_layer.items() if its_group == group]


def find_channel_groups(trace: Trace) -> ChannelGroups:
    """Find the groups. Raise ValueError if widths depend on each other because channels are concatenated, sliced or
    grouped."""
    parents: dict[str, str] = {}

    def root(layer: str) -> str:
        while parents[layer] != layer:
            layer = parents[layer]
        return layer

    makers: dict[int, str | None] = {-1: None}
    reads: dict[str, str | None] = {}
    norms: dict[str, str] = {}
    for operation in trace.operations:
        sources = list(dict.fromkeys(made for index in operation.inputs if (made := makers[index]) is not None))
        _check_widths_are_free(operation, sources)
        if operation.layer is not None:
            parents.setdefault(operation.module, operation.module)
            reads[operation.module] = sources[0] if sources else None
            sources = [operation.module, *(sources if operation.layer.depthwise else [])]
        for other in sources[1:]:
            parents[root(other)] = root(sources[0])
        makers[operation.index] = sources[0] if sources else None
        if operation.role == "norm" and sources:
            norms[operation.module] = sources[0]
    firsts: dict[str, str] = {}
    of_layer = {layer: firsts.setdefault(root(layer), layer) for layer in parents}
    widths: dict[str, int] = {}
    for operation, layer in trace.layers():
        if widths.setdefault(of_layer[operation.module], layer.out_channels) != layer.out_channels:
            raise ValueError(f"the output of {operation.module} is added to one of a different width")
    return ChannelGroups(
        of_layer=of_layer,
        read_by={layer: source and of_layer[source] for layer, source in reads.items()},
        norms={norm: of_layer[layer] for norm, layer in norms.items()},
        widths=widths,
    )


def _check_widths_are_free(operation: Operation, sources: list[str]) -> None:
    layer = operation.layer
    if operation.role == "cat" or operation.word in ("slice", "split", "split_with_sizes", "chunk", "unbind"):
        raise ValueError(f"{operation.module or 'the network'} concatenates or slices feature maps ({operation.word})")
    if layer is not None and not (layer.dense or layer.depthwise):
        raise ValueError(f"{operation.module} is a convolution with {layer.groups} groups")
    if layer is not None and len(sources) > 1:
        raise ValueError(f"{operation.module} reads {' and '.join(sources)} at once")


def resize(model: nn.Module, trace: Trace, groups: ChannelGroups, widths: dict[str, int]) -> None:
    """Give every group of `widths` its new number of channels, in place; a layer that changes shape is
    reinitialised."""
    new = {**groups.widths, **widths}
    for operation, layer in trace.layers():
        name = operation.module
        source = groups.read_by[name]
        # A linear layer after a flattened map reads every channel several times.
        inputs = layer.in_channels if source is None else layer.in_channels // groups.widths[source] * new[source]
        outputs = new[groups.of_layer[name]]
        if (inputs, outputs) != (layer.in_channels, layer.out_channels):
            _resize_layer(name, model.get_submodule(name), inputs, outputs)
    for name, group in groups.norms.items():
        if new[group] != groups.widths[group]:
            _resize_norm(name, model.get_submodule(name), new[group])


def _resize_layer(name: str, module: Any, inputs: int, outputs: int) -> None:
    if isinstance(module, nn.Conv2d):
        module.groups = inputs if module.groups > 1 else 1
        module.in_channels, module.out_channels = inputs, outputs
        shape = (outputs, inputs // module.groups, *module.kernel_size)
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = inputs, outputs
        shape = (outputs, inputs)
    else:
        raise ValueError(f"{name} computes with the weights of neither a Conv2d nor a Linear; allowed: these two")
    module.weight = nn.Parameter(module.weight.new_empty(shape))
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.new_empty(outputs))
    module.reset_parameters()


def _resize_norm(name: str, module: Any, channels: int) -> None:
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise ValueError(f"{name} is a norm of the kind {type(module).__name__}; allowed: batch norms")
    module.num_features = channels
    for key in ("weight", "bias"):
        if getattr(module, key) is not None:
            setattr(module, key, nn.Parameter(getattr(module, key).new_empty(channels)))
    for key in ("running_mean", "running_var"):
        if getattr(module, key) is not None:
            setattr(module, key, torch.empty_like(getattr(module, key)).new_empty(channels))
    module.reset_parameters()


@dataclass(frozen=True, kw_only=True)
class DensePlan:
    """Planned changes to a network, before scaling."""

    trace: Trace
    groups: ChannelGroups
    proportions: dict[str, tuple[float, Reason]]
    """Channels of each group before scaling, and the reason."""
    fixed: dict[str, tuple[int, Reason]]
    """Channels of the groups that do not scale."""
    pool: str | None
    """The module that pools for the classifier, before which a penultimate convolution is inserted."""
    activations: frozenset[str]
    """Modules that become SiLU."""
    left: tuple[str, ...]
    """Sentences about layers that break a rule but cannot be changed."""

    def reason_of(self, layer: str) -> Reason:
        """Return the reason why the output channels of a layer change or, if they do not, its input channels."""
        *_, (classifier, _) = self.trace.layers()
        if layer == classifier.module and (self.pool or self.fixed):
            return "penultimate"
        for group in (self.groups.of_layer[layer], self.groups.read_by[layer] or ""):
            if changed := self.proportions.get(group) or self.fixed.get(group):
                return changed[1]
        return "budget"

    def apply(self, model: Any, scale: float) -> None:
        """Change `model`, which has the structure of the traced one, in place."""
        scaled = {group: max(1, round(scale * proportion)) for group, (proportion, _) in self.proportions.items()}
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
        if hasattr(model, "num_features"):  # read by timm's reset_classifier
            model.num_features = outputs


def plan_dense(model: nn.Module, trace: Trace) -> DensePlan:
    """Plan the changes to a network of dense convolutions. Raise ValueError if its widths are not free."""
    groups = find_channel_groups(trace)
    maps = list(dict.fromkeys(groups.of_layer[op.module] for op, _ in trace.layers() if not op.pooled))
    chain = not any(operation.role in ("sum", "gate") for operation in trace.operations)
    classifier, _ = list(trace.layers())[-1]
    penultimate = groups.read_by[classifier.module]
    if not classifier.pooled or penultimate is None:
        raise ValueError("the network does not end in a classifier")
    fixed: dict[str, tuple[int, Reason]] = {}
    pool, left = None, []
    if penultimate in maps:
        pool = _pool_before(model, trace, classifier)
        if pool is None:
            left.append(f"{classifier.module}: its input is not pooled by a module, so it stays")
    else:
        fixed[penultimate] = round(PENULTIMATE_GAIN * groups.widths[penultimate]), "penultimate"
    activations, functions = _simple_activations(model, trace)
    return DensePlan(
        trace=trace,
        groups=groups,
        proportions=_line(groups, maps) if chain else _expand_inputs(trace, groups, maps),
        fixed=fixed,
        pool=pool,
        activations=activations,
        left=(
            *left,
            *(f"{name}: its activation is not a separate module, so it stays" for name in dict.fromkeys(functions)),
        ),
    )


def _line(groups: ChannelGroups, maps: list[str]) -> dict[str, tuple[float, Reason]]:
    """Set the widths of a chain without sums to a straight line from the first width to the last."""
    first, last = groups.widths[maps[0]], groups.widths[maps[-1]]
    step = (last - first) / max(1, len(maps) - 1)
    return {group: (first + step * place, "line") for place, group in enumerate(maps)}


def _expand_inputs(trace: Trace, groups: ChannelGroups, maps: list[str]) -> dict[str, tuple[float, Reason]]:
    """Widen the inputs of expand layers inside blocks, whose ends are tied together by sums."""
    tied = {group for group in maps if len(groups.members(group)) > 1}
    proportions: dict[str, tuple[float, Reason]] = {group: (groups.widths[group], "budget") for group in maps}
    for operation, layer in trace.layers():
        source = groups.read_by[operation.module]
        if operation.pointwise and layer.ratio < LEAST_EXPAND_RATIO and source in proportions and source not in tied:
            proportions[source] = LEAST_EXPAND_RATIO * layer.out_channels, "expand input"
    return proportions


def _pool_before(model: nn.Module, trace: Trace, classifier: Operation) -> str | None:
    """Return the module that pools the last feature map to one vector."""
    here = classifier
    while here.pooled and here.inputs and here.inputs[0] >= 0:
        before = trace.operations[here.inputs[0]]
        if not before.pooled:
            module = model.get_submodule(here.module)
            return here.module if here.module and "pool" in type(module).__name__.lower() else None
        here = before
    return None


def _simple_activations(model: nn.Module, trace: Trace) -> tuple[frozenset[str], list[str]]:
    """Return the modules to replace, and the modules that call an activation function instead of a module. An
    activation after a sum follows the convolutions that were added.
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
