"""Other channel numbers for a network that is there: its own modules, resized in place."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rexnet.study.principles.tracing import Operation, Trace


@dataclass(frozen=True, kw_only=True)
class ChannelGroups:
    """Which layers must have the same number of output channels: those whose outputs are added or multiplied."""

    of_layer: dict[str, str]
    """By layer the group of its output, named after the group's first layer."""
    read_by: dict[str, str | None]
    """By layer the group of its input; None is the image."""
    norms: dict[str, str]
    """By batch norm the group that it works on."""
    widths: dict[str, int]
    """By group its number of channels, in the order in which the groups are computed."""

    def members(self, group: str) -> list[str]:
        return [layer for layer, its_group in self.of_layer.items() if its_group == group]


def channel_groups(trace: Trace) -> ChannelGroups:
    """ValueError for a network whose channels are concatenated, cut or grouped, so that widths depend on each other."""
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
            raise ValueError(f"the output of {operation.module} is added to one of another width")
    return ChannelGroups(
        of_layer=of_layer,
        read_by={layer: source and of_layer[source] for layer, source in reads.items()},
        norms={norm: of_layer[layer] for norm, layer in norms.items()},
        widths=widths,
    )


def _check_widths_are_free(operation: Operation, sources: list[str]) -> None:
    layer = operation.layer
    if operation.role == "cat" or operation.word in ("slice", "split", "split_with_sizes", "chunk", "unbind"):
        raise ValueError(f"{operation.module or 'the network'} concatenates or cuts feature maps ({operation.word})")
    if layer is not None and not (layer.dense or layer.depthwise):
        raise ValueError(f"{operation.module} is a convolution with {layer.groups} groups")
    if layer is not None and len(sources) > 1:
        raise ValueError(f"{operation.module} reads {' and '.join(sources)} at once")


def resize(model: nn.Module, trace: Trace, groups: ChannelGroups, widths: dict[str, int]) -> None:
    """Gives every group of `widths` its new number of channels, in place; what changes its shape starts anew."""
    new = {**groups.widths, **widths}
    for operation, layer in trace.layers():
        name = operation.module
        source = groups.read_by[name]
        # A linear layer behind a flattened map sees every channel several times.
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
        raise ValueError(f"{name} computes with weights that are no Conv2d's and no Linear's")
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
