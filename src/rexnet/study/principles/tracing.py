"""One forward pass of any network, read as a graph: its layers, and what follows each of them.

Operations are seen where PyTorch dispatches them, so that an activation is found whether it is a module, a function or
a method; and on the meta device where the network allows it, so that only shapes are computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from rexnet.ranks.layer_ranks import kind_of

Role = Literal["layer", "norm", "activation", "gate", "sum", "cat", "pool", "shape", "other"]
UNSEEN = "unseen"
"""The activation of a layer that runs into operations which are none that we know."""
NONE = "none"

_ACTIVATIONS = (
    *("relu", "hardtanh", "clamp", "clamp_min", "leaky_relu", "prelu", "_prelu_kernel", "elu", "softplus"),
    *("hardswish", "silu", "gelu", "mish", "sigmoid", "hardsigmoid", "tanh"),
)
_GATED = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
"""What x * activation(x) is, written out."""
_NORMS = ("batch_norm", "layer_norm", "group_norm")
_POOLS = ("mean", "amax", "pool", "upsample")
_SHAPES = (
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "contiguous", "clone", "detach", "alias"),
    *("_to_copy", "expand", "constant_pad_nd", "squeeze", "unsqueeze", "slice", "select", "unbind", "split"),
    *("split_with_sizes", "chunk", "native_dropout", "unfold", "roll", "flip", "copy"),
)
_FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, AssertionError)
_PRODUCTS = ("addmm", "mm", "bmm", "baddbmm", "linear")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or linear layer, for one image."""

    kind: str
    """As 1x1, depthwise 3x3, grouped 3x3 or linear."""
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
    """The activation's name, or PyTorch's for the operation."""
    module: str
    """Name of the module in whose forward it ran; of a layer the name of its weight, where that is a parameter."""
    inputs: list[int]
    """Operations that made what it reads; -1 is the image."""
    pooled: bool
    """It works on one vector for the whole image: classifier heads and gates."""
    layer: Layer | None = None


class Trace:
    """The operations of a forward pass in their order."""

    def __init__(self, operations: list[Operation]):
        self.operations = operations
        self.users: dict[int, list[Operation]] = {-1: [], **{each.index: [] for each in operations}}
        for operation in operations:
            for source in set(operation.inputs):
                self.users[source].append(operation)

    def layers(self) -> Iterator[tuple[Operation, Layer]]:
        """Every layer once, also where it is used several times: at its first use."""
        seen = set()
        for operation in self.operations:
            if operation.layer is not None and operation.module not in seen:
                seen.add(operation.module)
                yield operation, operation.layer

    def macs(self) -> int:
        return sum(operation.layer.macs for operation in self.operations if operation.layer)

    def activation_after(self, operation: Operation) -> str:
        """The first activation after a layer and its norm; NONE where a layer, sum or pool comes first."""
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
        """The layers that read its output, unless it is added, concatenated or pooled before."""
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
        """The layer's output before and after each norm, gate and change of shape."""
        waiting = [operation]
        while waiting:
            here = waiting.pop(0)
            yield here
            waiting += [each for each in self._maps_after(here) if each.role in ("norm", "gate", "shape")]

    def _maps_after(self, operation: Operation) -> list[Operation]:
        return [each for each in self.users[operation.index] if each.pooled == operation.pooled]


class _Recorder(TorchDispatchMode):
    """Notes every operation on what comes from the image."""

    def __init__(self, model: nn.Module, image: Tensor):
        super().__init__()
        self.operations: list[Operation] = []
        self.makers: Any = WeakTensorKeyDictionary()
        self.makers[image] = -1
        self.weights = {parameter: name.removesuffix(".weight") for name, parameter in model.named_parameters()}
        self.stack: list[tuple[str, nn.Module]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = [each for each in _tensors(args) if each in self.makers]
        inputs = [self.makers[each] for each in read]
        result = func(*args, **(kwargs or {}))
        outputs = _tensors(result if isinstance(result, tuple | list) else (result,))
        if inputs and outputs:
            self._note(func, args, inputs, read, outputs)
        return result

    def _note(self, func: Any, args: Any, inputs: list[int], read: list[Tensor], outputs: list[Tensor]) -> None:
        module, kind = self.stack[-1]
        word = func._schema.name.partition("::")[2]
        word = word if word.startswith("_") else word.rstrip("_")
        layer = None
        if word == "convolution":
            layer = _convolution(args, outputs[0])
            module = self.weights.get(args[1], module)
        elif word in _PRODUCTS and isinstance(kind, nn.Linear | nn.Conv2d):
            layer = _product(kind, outputs[0])
        operation = Operation(
            index=len(self.operations),
            role="layer" if layer else _role(word, len(read), args),
            word=_activation_word(word, args) if word in _ACTIVATIONS else word,
            module=module,
            inputs=inputs,
            pooled=self._is_pooled(word, inputs, read, outputs[0]),
            layer=layer,
        )
        self.operations.append(operation)
        for output in outputs:
            self.makers[output] = operation.index

    def _is_pooled(self, word: str, inputs: list[int], read: list[Tensor], output: Tensor) -> bool:
        if all(source >= 0 and self.operations[source].pooled for source in inputs):
            return True
        vector = output.ndim > 1 and output.numel() == output.shape[0] * output.shape[1] and output.shape[0] == 1
        pools = _role(word, len(read), ()) == "pool" or output.ndim < read[0].ndim
        return vector and pools


def _tensors(values: Any) -> list[Tensor]:
    flat = [each for value in values for each in (value if isinstance(value, tuple | list) else (value,))]
    return [each for each in flat if isinstance(each, Tensor)]


def _convolution(args: Any, output: Tensor) -> Layer:
    weight, stride, transposed, groups = args[1], args[3], args[6], args[8]
    ins, outs = (weight.shape[0], weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, len(weight))
    made = args[0].numel() // args[0].shape[1] * ins if transposed else output.numel()
    return Layer(
        kind=("transposed " if transposed else "") + kind_of(tuple(weight.shape[2:]), groups=groups, in_channels=ins),
        in_channels=ins,
        out_channels=outs,
        macs=made * weight[0].numel(),
        kernel_size=max(weight.shape[2:]),
        stride=max(stride),
        groups=groups,
    )


def _product(module: nn.Linear | nn.Conv2d, output: Tensor) -> Layer:
    """A linear layer, or a convolution that computes as one."""
    macs = output.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return Layer(kind="linear", in_channels=module.in_features, out_channels=module.out_features, macs=macs)
    return Layer(
        kind=kind_of(module.kernel_size, groups=module.groups, in_channels=module.in_channels),
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        macs=macs,
        kernel_size=max(module.kernel_size),
        stride=max(module.stride),
        groups=module.groups,
    )


def _role(word: str, maps: int, args: Any) -> Role:
    if word in _ACTIVATIONS:
        return "activation"
    if any(norm in word for norm in _NORMS):
        return "norm"
    if any(pool in word for pool in _POOLS):
        return "pool"
    if word in _SHAPES:
        return "shape"
    if word == "cat":
        return "cat"
    if word == "mul":
        return "gate"
    if word in ("add", "sub") and maps > 1:
        return "sum"
    # A learned shift of every channel, as a position embedding, is no more than a norm does; a constant one belongs
    # to a function that is written out, such as x * relu6(x + 3) / 6.
    return "norm" if word == "add" and len(_tensors(args)) > 1 else "other"


def _activation_word(word: str, args: Any) -> str:
    if word in ("hardtanh", "clamp", "clamp_min"):
        low, high = [*args[1:3], *(None, None)][:2] if len(args) > 1 else (-1.0, 1.0)
        return {(0, 6): "relu6", (0, None): "relu"}.get((low, high), word)
    return "prelu" if word == "_prelu_kernel" else word


@contextmanager
def _names_followed(model: nn.Module, stack: list[tuple[str, nn.Module]]) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        here = (name, module)
        handles.append(module.register_forward_pre_hook(lambda *_, here=here: stack.append(here)))
        handles.append(module.register_forward_hook(lambda *_: (stack.pop(), None)[1], always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def image_channels(model: nn.Module) -> int:
    """Of the first convolution. ValueError for a network without one."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError("the network has no Conv2d, so it is none for images")


def trace(model: nn.Module, image_size_px: int = 224) -> Trace:
    """Reads a copy of the network, in evaluation, on one square image. ValueError where it does not take one."""
    shape = (1, image_channels(model), image_size_px, image_size_px)
    try:
        operations = _record(deepcopy(model).to("meta").eval(), torch.empty(shape, device="meta"))
    except _FAILURES:
        # Where the network's path depends on values, it needs some.
        try:
            operations = _record(deepcopy(model).to("cpu").eval(), torch.ones(shape))
        except _FAILURES as error:
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"the network does not take an image of shape {shape}: {said}") from error
    return Trace(operations)


def _record(model: nn.Module, image: Tensor) -> list[Operation]:
    recorder = _Recorder(model, image)
    with _names_followed(model, recorder.stack), torch.no_grad(), recorder:
        model(image)
    return recorder.operations
