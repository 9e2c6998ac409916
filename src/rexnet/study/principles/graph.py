"""A network's forward pass as a graph: layers, the operations that follow each of them, and the blocks they form."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Role = Literal["layer", "norm", "activation", "gate", "sum", "cat", "pool", "shape", "other"]
UNSEEN = "unseen"
"""Activation of a layer that is followed by unknown operations."""
NONE = "none"
_GATED = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
"""Activations by the gate that multiplies x: x * gate(x)."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or linear layer and its cost for one image."""

    kind: str
    """Kind of the layer: 1x1, depthwise 3x3, grouped 3x3, linear and the like."""
    in_channels: int
    out_channels: int
    macs: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        return self.groups == self.in_channels > 1

    @property
    def dense(self) -> bool:
        return self.groups == 1

    @property
    def ratio(self) -> float:
        """Input over output channels; 1 for a depthwise convolution."""
        return 1.0 if self.depthwise else self.in_channels / self.out_channels


@dataclass(kw_only=True)
class Operation:
    """A node of the graph."""

    index: int
    role: Role
    word: str
    """Name of the activation, or PyTorch's name of the operation."""
    module: str
    """Name of the module whose forward ran it, or of the parameter if a layer's weight is a plain parameter."""
    inputs: list[int]
    """Indices of the operations that compute its inputs; -1 is the image."""
    pooled: bool
    """True for an operation on one vector of the whole image, as in classifier heads and gates."""
    layer: Layer | None = None

    @property
    def pointwise(self) -> bool:
        """True for a 1x1 convolution on feature maps, and for a linear layer on every position of a feature map."""
        return self.layer is not None and self.layer.dense and self.layer.kernel_size == 1 and not self.pooled


def layer_of(operation: Operation) -> Layer:
    assert operation.layer is not None
    return operation.layer


class Trace:
    """Operations of a forward pass, in order."""

    def __init__(self, operations: list[Operation]):
        self.operations = operations
        self.users: dict[int, list[Operation]] = {-1: [], **{each.index: [] for each in operations}}
        for operation in operations:
            for source in set(operation.inputs):
                self.users[source].append(operation)

    def layers(self) -> Iterator[tuple[Operation, Layer]]:
        """Yield every layer once, at its first use."""
        seen = set()
        for operation in self.operations:
            if operation.layer is not None and operation.module not in seen:
                seen.add(operation.module)
                yield operation, operation.layer

    def macs(self) -> int:
        return sum(operation.layer.macs for operation in self.operations if operation.layer)

    def activation_after(self, operation: Operation) -> str:
        """Return the first activation after a layer and its norm; NONE if a layer, sum or pooling comes first."""
        for branch in self._branches(operation):
            followers = self._maps_after(branch)
            for follower in followers:
                if follower.role == "activation":
                    gates = (each for each in followers if each.role == "gate")
                    gated = any(follower.index in gate.inputs for gate in gates)
                    return _GATED.get(follower.word, UNSEEN) if gated else follower.word
            if any(follower.role == "other" for follower in followers):
                return UNSEEN
        return NONE

    def next_layers(self, operation: Operation) -> list[Operation]:
        """Return the layers that read the output, unless it is added, concatenated or pooled first."""
        found: dict[int, Operation] = {}
        waiting = [operation]
        while waiting:
            for follower in self._maps_after(waiting.pop(0)):
                if follower.role == "layer":
                    found[follower.index] = follower
                elif follower.role not in ("sum", "cat", "pool"):
                    waiting.append(follower)
        return list(found.values())

    def _branches(self, operation: Operation) -> Iterator[Operation]:
        """Yield the layer, and each norm, gate and change of shape after it."""
        waiting = [operation]
        while waiting:
            here = waiting.pop(0)
            yield here
            waiting += [each for each in self._maps_after(here) if each.role in ("norm", "gate", "shape")]

    def _maps_after(self, operation: Operation) -> list[Operation]:
        return [each for each in self.users[operation.index] if each.pooled == operation.pooled]


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """A block with a depthwise convolution, from its narrow input to its narrow output."""

    expand: Operation | None
    """The 1x1 convolution before the depthwise one, if the block has one."""
    depthwise: Operation
    project: Operation
    """The layer with the block's output channels."""

    @property
    def in_channels(self) -> int:
        return layer_of(self.expand or self.depthwise).in_channels

    @property
    def out_channels(self) -> int:
        return layer_of(self.project).out_channels

    @property
    def ratio(self) -> float:
        """Input over output channels of the block; always 1 for its depthwise convolution."""
        return self.in_channels / self.out_channels


def find_bottlenecks(trace: Trace) -> Iterator[Bottleneck]:
    """Yield inverted bottlenecks (MobileNetV2), separable convolutions (MobileNetV1) and depthwise convolutions before
    an expansion (ConvNeXt), in order of execution."""
    before: dict[int, list[Operation]] = {}
    for operation, _ in trace.layers():
        for follower in trace.next_layers(operation):
            before.setdefault(follower.index, []).append(operation)
    ended: set[int] = set()
    for operation, layer in trace.layers():
        if not layer.depthwise or operation.pooled:
            continue
        project = next((each for each in trace.next_layers(operation) if each.pointwise), None)
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
    return operation.pointwise and layer_of(operation).ratio < 1


def _condenses(operation: Operation) -> bool:
    return operation.pointwise and layer_of(operation).ratio > 1


def _begins_bottleneck(trace: Trace, operation: Operation) -> bool:
    return layer_of(operation).depthwise and any(map(_condenses, trace.next_layers(operation)))
