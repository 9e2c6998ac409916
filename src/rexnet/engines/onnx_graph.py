"""ONNX graph of a network, written node by node.

A ReXNet is a chain of nine kinds of layers, so its graph needs no tracing: it takes a second to write, names each node
after its module, and accepts any batch and image size.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from rexnet.data.preprocess import Preprocess
from rexnet.engines.config import Output
from rexnet.engines.graph_files import import_onnx
from rexnet.errors import WeightsError
from rexnet.models.blocks import DropPath, LinearBottleneck, SiLU, SqueezeExcitation
from rexnet.models.config import RexNetConfig
from rexnet.models.inference_form import fold, load_padded
from rexnet.models.rexnet import RexNet
from rexnet.text import printable

if TYPE_CHECKING:
    import onnx

OPSET = 18
INPUT = "images"
_SIMPLE = {
    nn.ReLU: ("Relu", {}),
    nn.LeakyReLU: ("LeakyRelu", {"alpha": 0.01}),
    nn.ELU: ("Elu", {}),
    nn.Softplus: ("Softplus", {}),
    nn.Hardswish: ("HardSwish", {}),
    nn.Sigmoid: ("Sigmoid", {}),
}
"""Parameter-free layers of one node each; in `ACTIVATIONS` all have PyTorch's default settings."""


def onnx_graph(model: RexNet, *, output: Output = "logits", pixels: Preprocess | None = None) -> "onnx.ModelProto":
    """Return the graph of a network without batch norms (`rexnet.models.inference_form`), in eval mode.

    Input: "images", float32 (batch, in_channels, height, width); with `pixels` uint8 (batch, height, width, 3),
    normalised in the graph. Output: "logits" (batch, num_classes), "embedding", the classifier's input (batch,
    head_hidden_size), or "features", narrow maps from stride 4 on, named features_4, features_8, ...
    """
    if output not in get_args(Output):
        raise ValueError(f"output is {output!r}; allowed: {', '.join(get_args(Output))}")
    onnx = import_onnx()
    writer = _Writer()
    x = writer.normalise(pixels) if pixels else INPUT
    shapes: dict[str, list[int | str]] = {}
    level_of_layer = {level.layer: level for stride, level in model.level_of_stride.items() if stride >= 4}
    for index in range(model.num_feature_layers):
        x = writer.layer(model.features[index], x, f"features.{index}")
        level = level_of_layer.get(index)
        if output == "features" and level:
            name = writer.node("Identity", x, name=f"features_{level.stride}")
            shapes[name] = ["batch", level.channels, f"height_{level.stride}", f"width_{level.stride}"]
    if output != "features":
        pool = {"avg": "ReduceMean", "max": "ReduceMax"}[model.global_pool]
        x = writer.node(pool, x, writer.constant("axes", np.array([2, 3])), name="pool", keepdims=1)
        for index in range(len(model.output) - int(output == "embedding")):
            x = writer.layer(model.output[index], x, f"output.{index}")
        classes = model.num_classes if output == "logits" else 0
        shapes[writer.node("Flatten", x, name=output)] = ["batch", classes or model.head_hidden_size]
    return _pack(onnx, writer, model.config.in_channels, outputs=shapes, pixels=pixels is not None)


@dataclass(frozen=True, kw_only=True)
class Int8Scales:
    """Quantisation of a convolution: a byte b of its inputs is (b - input_zero) * input_scale, a byte of the weights of
    output k is b * weight_scales[k]."""

    input_scale: float
    input_zero: int
    weight_scales: Tensor
    """(outputs,)"""


@dataclass(frozen=True, kw_only=True)
class ReadNetwork:
    """Network of an ONNX file, without batch norms and padded channels."""

    model: RexNet
    scales: dict[str, Int8Scales]
    """By the name of the convolution; empty for a float file."""


def read_network(path: str | Path, config: RexNetConfig, *, output: Output = "logits") -> ReadNetwork:
    """Return the network of an ONNX file that `onnx_graph` has made, perhaps in its int8 form; `config` is that of the
    network before its channels were padded.

    With output "embedding", it has no classes, and so the same output as the file. Raise WeightsError for a file
    without the network's weights.
    """
    graph = import_onnx().load(path).graph
    model = fold(RexNet(config if output == "logits" else replace(config, num_classes=0)))
    model.global_pool = "max" if any(node.op_type == "ReduceMax" for node in graph.node) else "avg"
    try:
        weights, scales = _read_convolutions(graph)
        load_padded(model, weights)
    except (ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{printable(path)!r} cannot be read back: {error}; make it again with `rexnet export` or `rexnet quantize`"
        ) from error
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name in scales:
            kept = scales[name].weight_scales[: layer.out_channels]
            scales[name] = replace(scales[name], weight_scales=kept)
    return ReadNetwork(model=model, scales=scales)


def _read_convolutions(graph: Any) -> tuple[dict[str, Tensor], dict[str, Int8Scales]]:
    """Return weights and biases as float32, by the names of the modules, and the scales of int8 convolutions."""
    to_array = import_onnx().numpy_helper.to_array
    arrays = {each.name: torch.from_numpy(to_array(each).copy()) for each in graph.initializer}
    steps = {node.output[0]: node.input for node in graph.node if node.op_type == "DequantizeLinear"}
    weights: dict[str, Tensor] = {}
    scales: dict[str, Int8Scales] = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        for name, source in zip(("weight", "bias"), node.input[1:], strict=False):
            if source in steps:
                whole, scale, zero = (arrays[each] for each in steps[source])
                scale, zero = (each.view(-1, *[1] * (whole.ndim - 1)) for each in (scale, zero))
                weights[f"{node.name}.{name}"] = (whole.float() - zero) * scale
            else:
                weights[f"{node.name}.{name}"] = arrays[source]
        if node.input[0] in steps and node.input[1] in steps:
            _, scale, zero = steps[node.input[0]]
            if arrays[zero].dtype != torch.uint8 or arrays[steps[node.input[1]][2]].any():
                raise ValueError(
                    f"{node.name} has signed inputs or weights with a zero point, not as `rexnet quantize`"
                )
            scales[node.name] = Int8Scales(
                input_scale=float(arrays[scale]),
                input_zero=int(arrays[zero]),
                weight_scales=arrays[steps[node.input[1]][1]],
            )
    return weights, scales


def _pack(
    onnx: Any, writer: "_Writer", in_channels: int, *, outputs: dict[str, list[int | str]], pixels: bool
) -> "onnx.ModelProto":
    helper, types = onnx.helper, onnx.TensorProto
    shape = ["batch", "height", "width", in_channels] if pixels else ["batch", in_channels, "height", "width"]
    images = helper.make_tensor_value_info(INPUT, types.UINT8 if pixels else types.FLOAT, shape)
    results = [helper.make_tensor_value_info(name, types.FLOAT, shape) for name, shape in outputs.items()]
    nodes = [
        helper.make_node(op, inputs, [name], name=name, **attributes) for op, inputs, name, attributes in writer.nodes
    ]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in writer.constants.items()]
    graph = helper.make_graph(nodes, "rexnet", [images], results, weights)
    # Readers of opset 18 support IR 10, but not yet the package's newest version.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    """Nodes in order, each with one output of its own name, and their tensors."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = values
        return name

    def tensor(self, name: str, values: Tensor) -> str:
        return self.constant(name, values.detach().float().cpu().contiguous().numpy())

    def node(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append((op, list(inputs), name, attributes))
        return name

    def normalise(self, preprocess: Preprocess) -> str:
        """Add the normalisation of uint8 (B, H, W, 3); return the name of the network's input."""
        x = self.node("Cast", INPUT, name="pixels.float", to=1)
        x = self.node("Transpose", x, name="pixels.nchw", perm=[0, 3, 1, 2])
        for op, values, name in (("Sub", preprocess.mean, "pixels.centred"), ("Div", preprocess.std, "pixels.scaled")):
            array = np.array(values, np.float32).reshape(1, 3, 1, 1) * np.float32(255)
            x = self.node(op, x, self.constant(f"{name}.by", array), name=name)
        return x

    def layer(self, module: nn.Module, x: str, name: str) -> str:
        """Add the nodes of `module` applied to the tensor `x`; return the name of the result. Raise TypeError for other
        layers."""
        if isinstance(module, nn.Identity | nn.Dropout | DropPath):
            return x
        if isinstance(module, nn.Sequential):
            for part, child in module.named_children():
                x = self.layer(child, x, f"{name}.{part}")
            return x
        if isinstance(module, nn.Conv2d):
            return self._convolution(module, x, name)
        if isinstance(module, SiLU):
            return self.node("Mul", x, self.node("Sigmoid", x, name=f"{name}.sigmoid"), name=name)
        if isinstance(module, nn.ReLU6):
            limits = [self.constant(f"clip.{limit}", np.array(limit, np.float32)) for limit in (0, 6)]
            return self.node("Clip", x, *limits, name=name)
        if isinstance(module, SqueezeExcitation):
            axes = self.constant("axes", np.array([2, 3]))
            pooled = self.node("ReduceMean", x, axes, name=f"{name}.pool", keepdims=1)
            return self.node("Mul", x, self.layer(module.fc, pooled, f"{name}.fc"), name=name)
        if isinstance(module, LinearBottleneck):
            return self._bottleneck(module, x, name)
        for kind, (op, attributes) in _SIMPLE.items():
            if isinstance(module, kind):
                return self.node(op, x, name=name, **attributes)
        raise TypeError(f"{name} is a {type(module).__name__}, for which there is no ONNX node here")

    def _convolution(self, module: nn.Conv2d, x: str, name: str) -> str:
        inputs = [self.tensor(f"{name}.weight", module.weight)]
        if module.bias is not None:
            inputs.append(self.tensor(f"{name}.bias", module.bias))
        assert not isinstance(module.padding, str)
        return self.node(
            "Conv",
            x,
            *inputs,
            name=name,
            kernel_shape=list(module.kernel_size),
            strides=list(module.stride),
            pads=[*module.padding, *module.padding],
            dilations=list(module.dilation),
            group=module.groups,
        )

    def _bottleneck(self, module: LinearBottleneck, x: str, name: str) -> str:
        found = self.layer(module.out, x, f"{name}.out")
        if not module.spec.shortcut:
            return found
        missing_channels = module.spec.out_channels - module.spec.in_channels
        if missing_channels:
            pads = self.constant(f"{name}.pads", np.array([0, 0, 0, 0, 0, missing_channels, 0, 0]))
            x = self.node("Pad", x, pads, name=f"{name}.padded")
        return self.node("Add", found, x, name=name)
