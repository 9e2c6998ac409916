"""Writers of graph files, and the comparison of a file's outputs with the network's."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.fx.experimental import _config as export_config

from rexnet.data.preprocess import Preprocess
from rexnet.deploy.classifiers import ExportedFile
from rexnet.engines.backends import is_installed, open_graph
from rexnet.engines.config import FILE_BACKENDS, Backend, Engine, Format, Output
from rexnet.engines.graph_files import describe_archive, import_onnx, trace, write_graph
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.models.rexnet import RexNet

logger = logging.getLogger(__name__)

Run = Callable[[np.ndarray], list[np.ndarray]]
"""Function from images to all outputs of a graph."""
TOLERANCE = 1e-4
"""Allowed difference as a fraction of the network's largest output; rounding causes about 1e-6."""
BATCHES = (slice(0, 1), slice(1, 3), slice(0, 5))
"""Images of each batch: one, two and five."""


class OutputLayers(nn.Module):
    """Network from a file's input images to its output tensors, in eval mode."""

    model: Any
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, output: Output, pixels: Preprocess | None = None):
        super().__init__()
        self.model, self.output, self.pixels = model, output, pixels is not None
        for name, values in (("mean", pixels.mean), ("std", pixels.std)) if pixels else ():
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.pixels:
            # torch.export would turn a batch of one into a constant with other strides.
            images = (images.permute(0, 3, 1, 2).float().contiguous() - self.mean) / self.std
        if self.output == "features":
            return tuple(self.model.feature_maps(images).values())
        features = self.model.forward_features(images)
        return (self.model.forward_head(features, pre_logits=self.output == "embedding"),)


def _graph(network: nn.Module, described: ExportedFile) -> Any:
    """Return the onnx.ModelProto of a network without batch norms, or of a timm network."""
    if not isinstance(network, RexNet):
        layers, images = _torch_graph(network, described)
        sides = {1: "height", 2: "width"} if described.pixels else {2: "height", 3: "width"}
        axes = {"images": {0: "batch", **sides}}
        graph = trace(layers, images, opset=17, axes=axes, inputs=["images"])
        return import_onnx().load_model_from_string(graph)
    return onnx_graph(network, output=described.output, pixels=described.preprocess if described.pixels else None)


def _write_graph(network: nn.Module, described: ExportedFile, path: Path) -> dict[str, Run]:
    write_graph(_graph(network, described), described.to_dict(), path)
    first, *others = FILE_BACKENDS[path.suffix]
    engines: list[Backend] = [first, *(name for name in others if is_installed(name, "fp32"))]
    runs: dict[str, Run] = {name: open_graph(path, Engine(backend=name), any_shape=True).run for name in engines}
    if "openvino" in runs:
        runs["openvino of a fixed shape"] = open_graph(path, Engine(backend="openvino")).run
    return runs


def _write_torch_export(network: nn.Module, described: ExportedFile, path: Path) -> dict[str, Run]:
    layers, images = _torch_graph(network, described)
    batch, *sides = (0, 1, 2) if described.pixels else (0, 2, 3)
    shapes = {axis: torch.export.Dim.DYNAMIC for axis in (batch, *sides)}
    # Keep a batch of one, or a last map of one position, from becoming a constant.
    with export_config.patch(backed_size_oblivious=True):  # pyright: ignore[reportAttributeAccessIssue]
        program = torch.export.export(layers, (images,), dynamic_shapes=(shapes,))
    torch.export.save(program, path, extra_files=describe_archive(described.to_dict()))
    module = torch.export.load(path).module()
    return {"torch": lambda images: [found.numpy() for found in module(torch.from_numpy(np.ascontiguousarray(images)))]}


def _torch_graph(network: nn.Module, described: ExportedFile) -> tuple[OutputLayers, torch.Tensor]:
    """Return the module that a file computes, and a batch of two input images."""
    layers = OutputLayers(network, described.output, described.preprocess if described.pixels else None)
    size_px, channels = described.preprocess.image_size_px, described.in_channels
    if described.pixels:
        return layers, torch.zeros(2, size_px, size_px, channels, dtype=torch.uint8)
    return layers, torch.zeros(2, channels, size_px, size_px)


WRITERS: dict[Format, Callable[[nn.Module, ExportedFile, Path], dict[str, Run]]] = {
    "onnx": _write_graph,
    "openvino": _write_graph,
    "torch-export": _write_torch_export,
}
"""Functions that write a network without batch norms to the folder of the path, and return functions that run the file,
by engine: with dynamic shapes, in OpenVINO also with a fixed shape."""


@torch.inference_mode()
def largest_difference(
    runs: Mapping[str, Run],
    model: nn.Module,
    described: ExportedFile,
    samples: Sequence[Image.Image],
    *,
    sizes_px: Sequence[int],
) -> float:
    """Return the largest difference between `runs`, by engine, and `model`, in eval mode, as a fraction of the largest
    value in the output.

    Images are prepared at each of `sizes_px` and run in BATCHES. Raise ValueError if the difference exceeds TOLERANCE.
    """
    eager = OutputLayers(model, described.output)
    worst, same = 0.0, False
    for size_px in sizes_px:
        preprocess = replace(described.preprocess, image_size_px=size_px)
        images = torch.stack([preprocess(sample) for sample in samples])
        images = images[:, [channel % 3 for channel in range(described.in_channels)]]
        expected = [found.numpy() for found in eager(images.clone())]
        same |= _nearly_same(expected, described.name)
        pixels = np.stack([preprocess.pixels(sample) for sample in samples])
        inputs = pixels if described.pixels else images.contiguous().numpy()
        for batch in BATCHES:
            right = [part[batch] for part in expected]
            for engine, run in runs.items():
                where = f"a batch of {len(inputs[batch])} at {size_px} px in {engine}"
                worst = max(worst, _difference(right, run(inputs[batch]), whole=expected, where=where))
    if same:
        logger.warning(
            "%s has nearly the same output for any image, so the comparison with the file is weak", described.name
        )
    return worst


def _nearly_same(expected: Sequence[np.ndarray], name: str) -> bool:
    """Return whether the last output hardly depends on the image. Raise ValueError if an output is not finite."""
    if not all(np.isfinite(part).all() for part in expected):
        raise ValueError(f"the output of {name} is not finite (nan or inf): its training has failed")
    last = expected[-1]
    return bool(np.abs(last - last.mean(axis=0)).max() <= 10 * TOLERANCE * np.abs(last).max())


def _difference(
    expected: Sequence[np.ndarray], found: Sequence[np.ndarray], *, whole: Sequence[np.ndarray], where: str
) -> float:
    shapes = [part.shape for part in expected], [part.shape for part in found]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the graph outputs {shapes[1]} for {where}, but PyTorch {shapes[0]}; nothing was written")
    worst = 0.0
    for ours, theirs, scale in zip(expected, found, whole, strict=True):
        largest = max(float(np.abs(scale).max()), float(np.finfo(np.float32).tiny))
        difference = float(np.abs(ours - theirs).max()) / largest
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the graph and PyTorch differ by {difference:.2g} of the largest output for {where}; allowed: "
                f"{TOLERANCE:g}; nothing was written"
            )
        worst = max(worst, difference)
    return worst
