"""Blocks with a depthwise convolution, found in the graph of any network."""

from collections.abc import Iterator
from dataclasses import dataclass

from rexnet.study.principles.tracing import Layer, Operation, Trace


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """From the narrow input of a block to its narrow output."""

    expand: Operation | None
    """The 1x1 convolution before the depthwise one, where the block has one of its own."""
    depthwise: Operation
    project: Operation
    """The layer that puts out the block's output channels."""

    @property
    def in_channels(self) -> int:
        return layer_of(self.expand or self.depthwise).in_channels

    @property
    def out_channels(self) -> int:
        return layer_of(self.project).out_channels

    @property
    def ratio(self) -> float:
        """Input over output channels of the block; of its depthwise convolution it is 1."""
        return self.in_channels / self.out_channels


def layer_of(operation: Operation) -> Layer:
    assert operation.layer is not None
    return operation.layer


def is_pointwise(operation: Operation) -> bool:
    """A 1x1 convolution on feature maps, or a linear layer on every position of one."""
    layer = layer_of(operation)
    return layer.dense and layer.kernel_size == 1 and not operation.pooled


def find_bottlenecks(trace: Trace) -> Iterator[Bottleneck]:
    """Inverted bottlenecks (MobileNetV2), separable convolutions (MobileNetV1) and depthwise convolutions before an
    expansion (ConvNeXt), in the order in which they compute."""
    before: dict[int, list[Operation]] = {}
    for operation, _ in trace.layers():
        for follower in trace.next_layers(operation):
            before.setdefault(follower.index, []).append(operation)
    ended: set[int] = set()
    for operation, layer in trace.layers():
        if not layer.depthwise or operation.pooled:
            continue
        project = next(filter(is_pointwise, trace.next_layers(operation)), None)
        if project is None:
            continue
        expand = next(filter(_expands, before.get(operation.index, [])), None)
        if expand is not None and expand.index in ended:
            expand = None
        if expand is None and _expands(project):
            following = trace.next_layers(project)
            if any(_begins_bottleneck(trace, each) for each in following):
                continue  # the depthwise convolution before an inverted bottleneck, as in MobileNetV4
            project = next(filter(_condenses, following), project)
        ended.add(project.index)
        yield Bottleneck(expand=expand, depthwise=operation, project=project)


def _expands(operation: Operation) -> bool:
    return is_pointwise(operation) and layer_of(operation).ratio < 1


def _condenses(operation: Operation) -> bool:
    return is_pointwise(operation) and layer_of(operation).ratio > 1


def _begins_bottleneck(trace: Trace, operation: Operation) -> bool:
    return layer_of(operation).depthwise and any(map(_condenses, trace.next_layers(operation)))
