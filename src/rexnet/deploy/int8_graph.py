"""Graphs whose convolutions multiply whole numbers of eight bits: static, per channel, as quantize-dequantize pairs.

ONNX Runtime and OpenVINO both read such pairs and run them as int8; nodes keep their names, those of the modules.
"""

import io
import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from rexnet.data.graph_files import import_onnx
from rexnet.deploy.backends import import_engine
from rexnet.deploy.onnx_graph import INPUT

if TYPE_CHECKING:
    import onnx


Int8Backend = Literal["openvino", "onnxruntime"]


def int8_graph(graph: "onnx.ModelProto", images: Sequence[Tensor], backend: Int8Backend) -> "onnx.ModelProto":
    """`graph` calibrated on `images`, float32 (1, 3, H, W) each: weights by channel, activations by tensor.

    The two engines are fast with pairs in different places, so each has the tool that knows its places: by one core on
    a batch of 8 in ONNX Runtime, NNCF's graph took 1,033 ms and its own tool's 300 (float 516), in OpenVINO 300 and 400
    (float 651, bf16 336).
    """
    return _by_nncf(graph, images) if backend == "openvino" else _by_onnxruntime(graph, images)


def _by_nncf(graph: "onnx.ModelProto", images: Sequence[Tensor]) -> "onnx.ModelProto":
    """Pairs before convolutions only, so that SiLU stays fused with the one before; the small convolutions of
    squeeze-excitation in float; biases corrected by what rounding the weights changes on average."""
    nncf = _import_nncf()
    dataset = nncf.Dataset(images, lambda image: {INPUT: image.numpy()})
    with redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            graph,
            dataset,
            # SiLU reaches down to -0.28: symmetric numbers would leave nearly half of their range unused.
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(images),
        )


def _by_onnxruntime(graph: "onnx.ModelProto", images: Sequence[Tensor]) -> "onnx.ModelProto":
    """Pairs around every operator, since ONNX Runtime has int8 code only for whole chains of them."""
    import_engine("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.remaining = iter(images)

        def get_next(self) -> Any:
            image = next(self.remaining, None)
            return None if image is None else {INPUT: image.numpy()}

    with TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantize_static(graph, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
        return import_onnx().load(path)


def _import_nncf() -> Any:
    before = logging.getLoggerClass()
    try:
        import nncf
    except ImportError as error:
        raise ValueError("int8 for OpenVINO needs the package nncf: pip install 'rexnet[deploy]'") from error
    finally:
        logging.setLoggerClass(before)  # nncf sets its own for the whole program
    nncf.set_log_level(logging.ERROR)
    return nncf


def int8_layers(graph: "onnx.ModelProto") -> list[str]:
    """Names of the convolutions of an int8 graph that are computed in int8, in order."""
    pairs = {name for node in graph.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return [node.name for node in graph.graph.node if node.op_type == "Conv" and set(node.input[:2]) <= pairs]


def with_float_layers(
    int8: "onnx.ModelProto", reference: "onnx.ModelProto", names: Collection[str]
) -> "onnx.ModelProto":
    """A copy of an int8 graph in which the convolutions `names` have the weights of `reference`, its float graph, and
    read numbers that were not rounded."""
    copy = import_onnx().ModelProto()
    copy.CopyFrom(int8)
    weights = {tensor.name: tensor for tensor in reference.graph.initializer}
    originals = {node.name: node for node in reference.graph.node}
    for node in copy.graph.node:
        if node.name not in names:
            continue
        # Its output stays: an activation behind it may have become a part of the rounding there.
        node.input[0], *parameters = originals[node.name].input
        for position, name in enumerate(parameters, start=1):
            # Under its own name a bias may have been corrected for int8.
            node.input[position] = f"{name}.float"
            tensor = copy.graph.initializer.add()
            tensor.CopyFrom(weights[name])
            tensor.name = node.input[position]
    _remove_unread(copy.graph)
    return copy


def _remove_unread(graph: Any) -> None:
    """Drops nodes and weights whose results nothing reads."""
    read = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if read.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            read.update(node.input)
    _keep(graph.initializer, (tensor for tensor in graph.initializer if tensor.name in read))


def _keep(field: Any, kept: Iterable[Any]) -> None:
    rest = list(kept)
    del field[:]
    field.extend(rest)
