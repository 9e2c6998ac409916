"""One forward pass of any network, recorded as a graph.

Operations are recorded where PyTorch dispatches them, so that an activation is found whether it is a module, a function
or a method. If the network allows it, the pass runs on the meta device, where only shapes are computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from rexnet.ranks.layer_ranks import kind_of
from rexnet.study.principles.graph import Layer, Operation, Role, Trace

_ACTIVATIONS = (
    *("relu", "hardtanh", "clamp", "clamp_min", "leaky_relu", "prelu", "_prelu_kernel", "elu", "softplus"),
    *("hardswish", "silu", "gelu", "mish", "sigmoid", "hardsigmoid", "tanh"),
)
_NORMS = ("batch_norm", "layer_norm", "group_norm")
_POOLS = ("mean", "amax", "pool", "upsample")
_SHAPES = (
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "contiguous", "clone", "detach", "alias"),
    *("_to_copy", "expand", "constant_pad_nd", "squeeze", "unsqueeze", "slice", "select", "unbind", "split"),
    *("split_with_sizes", "chunk", "native_dropout", "unfold", "roll", "flip", "copy"),
)
_FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, AssertionError)
_PRODUCTS = ("addmm", "mm", "bmm", "baddbmm", "linear")


class _Recorder(TorchDispatchMode):
    """A dispatch mode that records every operation on tensors computed from the image."""

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
    """Describe a linear layer, or a convolution that is equivalent to one."""
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
    # Count a learned shift of every channel, such as a position embedding, as a norm; a constant one belongs
    # to a function written as an expression, such as x * relu6(x + 3) / 6.
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
    """Return the input channels of the first convolution. Raise ValueError for a network without one."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError("the network has no Conv2d, so it is not a network for images")


def trace(model: nn.Module, image_size_px: int = 224) -> Trace:
    """Trace a copy of the network, in eval mode, on one square image. Raise ValueError if it does not accept one."""
    shape = (1, image_channels(model), image_size_px, image_size_px)
    try:
        operations = _record(deepcopy(model).to("meta").eval(), torch.empty(shape, device="meta"))
    except _FAILURES:
        # A network with data-dependent control flow needs values.
        try:
            operations = _record(deepcopy(model).to("cpu").eval(), torch.ones(shape))
        except _FAILURES as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the network does not take an image of shape {shape}: {reason}") from error
    return Trace(operations)


def _record(model: nn.Module, image: Tensor) -> list[Operation]:
    recorder = _Recorder(model, image)
    with _names_followed(model, recorder.stack), torch.no_grad(), recorder:
        model(image)
    return recorder.operations
