"""Writers of files, one a format: a network without batch norms in, a file and the function that runs it out."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rexnet.deploy.exported_file import ExportedFile
from rexnet.deploy.graph_check import OutputLayers, Run
from rexnet.engines.backends import open_graph
from rexnet.engines.config import FILE_BACKENDS, Backend, Engine, Format
from rexnet.engines.graph_files import describe_archive, import_onnx, trace, write_graph
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.models.rexnet import RexNet

STEP_PX = 32


@dataclass(frozen=True)
class Writer:
    """Of a format. `write` puts everything into the folder of its path and returns what runs the file, by the
    name of each engine that opens it here; as its users run it, with the shape left open."""

    write: Callable[[nn.Module, ExportedFile, Path], dict[str, Run]]
    more_endings: tuple[str, ...] = ()
    """Of files beside the one that is named."""


def _graph(network: nn.Module, described: ExportedFile) -> Any:
    """Return the onnx.ModelProto of a network without batch norms, or of a network of timm's."""
    if not isinstance(network, RexNet):
        layers, image = _torch_graph(network, described)
        sides = {1: "height", 2: "width"} if described.pixels else {2: "height", 3: "width"}
        axes = {"images": {0: "batch", **sides}}
        graph = trace(layers, image.expand(2, *image.shape[1:]), opset=17, axes=axes, inputs=["images"])
        return import_onnx().load_model_from_string(graph)
    return onnx_graph(network, output=described.output, pixels=described.preprocess if described.pixels else None)


def _write_graph(network: nn.Module, described: ExportedFile, path: Path) -> dict[str, Run]:
    write_graph(_graph(network, described), described.to_dict(), path)
    native, *others = FILE_BACKENDS[path.suffix]
    engines: list[Backend] = [native, *(name for name in others if find_spec(name))]
    return {name: open_graph(path, Engine(backend=name), any_shape=True).run for name in engines}


def _write_torch_export(network: nn.Module, described: ExportedFile, path: Path) -> dict[str, Run]:
    layers, image = _torch_graph(network, described)
    batch, *sides = (0, 1, 2) if described.pixels else (0, 2, 3)
    open_axes = [batch] if _ends_in_one(described) else [batch, *sides]
    # A batch of one, or a last map of one position, would become a constant of the graph.
    shape = list(image.shape)
    for axis in open_axes:
        shape[axis] = 2 if axis == batch else max(shape[axis], 3 * described.output_stride)
    images = image.new_zeros(shape)
    program = torch.export.export(
        layers, (images,), dynamic_shapes=({axis: torch.export.Dim.DYNAMIC for axis in open_axes},)
    )
    torch.export.save(program, path, extra_files=describe_archive(described.to_dict()))
    module = torch.export.load(path).module()
    return {"torch": lambda images: [found.numpy() for found in module(torch.from_numpy(np.ascontiguousarray(images)))]}


def _ends_in_one(described: ExportedFile) -> bool:
    """Return whether the last map has one position; torch.export then takes no other size."""
    return described.preprocess.image_size_px <= described.output_stride


def _torch_graph(network: nn.Module, described: ExportedFile) -> tuple[OutputLayers, torch.Tensor]:
    """Return what a file does as a module, and a batch of one image that it takes."""
    layers = OutputLayers(network, described.output, described.preprocess if described.pixels else None)
    size_px, channels = described.preprocess.image_size_px, described.in_channels
    if described.pixels:
        return layers, torch.zeros(1, size_px, size_px, channels, dtype=torch.uint8)
    return layers, torch.zeros(1, channels, size_px, size_px)


WRITERS: dict[Format, Writer] = {
    "onnx": Writer(_write_graph),
    "openvino": Writer(_write_graph, more_endings=(".bin",)),
    "torch-export": Writer(_write_torch_export),
}


def compared_px(format: Format, described: ExportedFile) -> tuple[int, ...]:
    """Return the sides of the images that a file is tried on: two, unless it takes one only."""
    size_px = described.preprocess.image_size_px
    fixed = format == "torch-export" and _ends_in_one(described)
    return (size_px,) if fixed else (size_px, size_px + STEP_PX)
