"""Static int8 quantisation of graphs, per channel, with quantise-dequantise (QDQ) pairs. Both ONNX Runtime and OpenVINO
run QDQ pairs in int8; nodes keep their names, which are the modules' names.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rexnet.deploy.config import Int8Backend
from rexnet.engines.graph_files import import_engine, import_onnx
from rexnet.engines.onnx_graph import INPUT
from rexnet.processes import without_logs

if TYPE_CHECKING:
    import onnx


def int8_graph(graph: "onnx.ModelProto", images: Sequence[Tensor], backend: Int8Backend) -> "onnx.ModelProto":
    """Return the int8 form of `graph`, calibrated on `images`, each float32 (1, 3, H, W): weights per channel,
    activations per tensor, with QDQ pairs where they are fast in `backend`."""
    import_engine("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.remaining = iter(images)

        def get_next(self) -> Any:
            image = next(self.remaining, None)
            return None if image is None else {INPUT: image.numpy()}

    onnx = import_onnx()
    # ONNX Runtime warns about an unoptimised graph, but this graph has nothing to optimise.
    with TemporaryDirectory() as folder, without_logs(logging.WARNING):
        # For a graph in memory the quantiser would move the weights into a file.
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(graph, source)
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Types for which CPUs have multiply instructions: unsigned activations, signed weights.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            **_places(graph, backend, images[0]),
        )
        return onnx.load(target)


def _places(graph: "onnx.ModelProto", backend: Int8Backend, image: Tensor) -> dict[str, Any]:
    """Return options that select the nodes to quantise. ONNX Runtime has int8 code for whole chains of operators, so
    all are quantised. OpenVINO fuses SiLU and squeeze-excitation, in float, into the preceding convolution, so only the
    inputs of convolutions are quantised."""
    if backend == "onnxruntime":
        return {}
    wrong = _read_scaled_points(graph, image)
    convolutions = [node.name for node in graph.graph.node if node.op_type == "Conv" and ".fc." not in node.name]
    options = {"OpTypesToExcludeOutputQuantization": ["Conv"], "QuantizeBias": False}
    return {"nodes_to_quantize": [name for name in convolutions if name not in wrong], "extra_options": options}


def _read_scaled_points(graph: "onnx.ModelProto", image: Tensor) -> set[str]:
    """Return the names of the convolutions after squeeze-excitation whose maps for `image` have a single position.

    For these, OpenVINO 2026.4 returns garbage in int8 for a single image with dynamic shapes.
    """
    onnx = import_onnx()
    fixed = onnx.ModelProto()
    fixed.CopyFrom(graph)
    for dimension, length in zip(fixed.graph.input[0].type.tensor_type.shape.dim, image.shape, strict=True):
        dimension.dim_value = length
    inferred = onnx.shape_inference.infer_shapes(fixed).graph.value_info
    points = {info.name for info in inferred if [d.dim_value for d in info.type.tensor_type.shape.dim[2:]] == [1, 1]}
    scaled: set[str] = set()
    for node in graph.graph.node:
        activated = node.op_type != "Conv" and node.input[0] in scaled
        if activated or (node.op_type == "Mul" and ".fc." in node.input[1]):
            scaled.add(node.output[0])
    reading = {node.name: node.input[0] for node in graph.graph.node if node.op_type == "Conv"}
    return {name for name, read in reading.items() if read in scaled & points}


def int8_layers(graph: "onnx.ModelProto") -> list[str]:
    """Return the names of the int8 convolutions of a graph, in order."""
    pairs = {name for node in graph.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return [node.name for node in graph.graph.node if node.op_type == "Conv" and set(node.input[:2]) <= pairs]
