"""Detectors in files of `rexnet export`: their description and inference."""

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from rexnet._version import __version__
from rexnet.detection.checkpoints import TASK, TrainedDetector, detector_config, read_score_threshold
from rexnet.detection.detectors import DetectorConfig
from rexnet.engines.backends import engine_of_format, open_graph
from rexnet.engines.graph_files import read_facts
from rexnet.errors import WeightsError

FORMAT = 1


def output_names(config: DetectorConfig) -> tuple[str, ...]:
    """Return the names of a file's outputs, in order."""
    return ("boxes", "labels", "scores", *(("masks",) if config.kind == "mask_rcnn" else ()))


_OUTPUTS = {
    "boxes": "float32 (n, 4): left, top, right, bottom in pixels of the image",
    "labels": "int64 (n,): from 1, classes[label - 1]",
    "scores": "float32 (n,): from 0 to 1, highest first",
    "masks": "float32 (n, 1, height, width): from 0 to 1, above 0.5 inside the object",
}
_COMPUTES = (
    "float32; OpenVINO uses bfloat16 if the processor supports it, which changes scores by up to 0.017, unless "
    "compiled "
    "with INFERENCE_PRECISION_HINT f32"
)


def describe_tensors(config: DetectorConfig, *, pixels: bool) -> dict[str, str]:
    """Describe a file's inputs and outputs by tensor name."""
    image = "uint8 (height, width, 3), from 0 to 255" if pixels else "float32 (3, height, width), from 0 to 1"
    outputs = {name: _OUTPUTS[name] for name in output_names(config)}
    return {"image": f"{image}: red, green, blue, upright, of any size", **outputs}


def facts_of(trained: TrainedDetector, *, pixels: bool) -> dict[str, Any]:
    """Return a file's metadata as plain values for JSON; `load_exported` reads it back. `pixels`: the graph takes
    uint8."""
    return {
        "format": FORMAT,
        "task": TASK,
        "detector": detector_config(trained.model).to_dict(),
        "classes": list(trained.classes),
        "category_ids": list(trained.category_ids),
        "score_threshold": trained.score_threshold,
        "pixels": pixels,
        "tensors": describe_tensors(detector_config(trained.model), pixels=pixels),
        "computes_in": _COMPUTES,
        "versions": {"rexnet": __version__, "torch": str(torch.__version__)},
    }


@final
class DetectorGraph(nn.Module):
    """Graph in ONNX Runtime or OpenVINO on the CPU, called like the detector in PyTorch: images float32 (3, H, W) from
    0 to 1 -> one dict per image."""

    def __init__(self, path: Path, config: DetectorConfig, *, pixels: bool, threads: int | None):
        super().__init__()
        self.config, self.pixels = config, pixels
        self.engine = engine_of_format(path, threads=threads)
        self._graph = open_graph(path, self.engine, any_shape=True)

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        return [self._found(image) for image in images]

    def _found(self, image: Tensor) -> dict[str, Tensor]:
        if self.pixels:
            image = (255 * image).round().byte().permute(1, 2, 0)
        found = self._graph.run(image.contiguous().numpy())
        return {name: torch.from_numpy(part) for name, part in zip(output_names(self.config), found, strict=True)}


def load_exported(path: str | PathLike[str], *, threads: int | None = None) -> TrainedDetector:
    """Return the detector in a .onnx or .xml file of `rexnet export`; its `model` is a DetectorGraph, whose engine uses
    `threads`.

    Raise WeightsError for a file that cannot be used, and MissingPackageError if its engine is not installed.
    """
    facts = read_facts(path)
    if facts.get("task") == "classification":
        raise WeightsError(
            f"{fspath(path)!r} holds a classifier, but a detector is needed here; use `rexnet predict` for it"
        )
    try:
        if facts["format"] != FORMAT or facts["task"] != TASK:
            raise ValueError(f"it holds format {facts['format']} of {facts['task']}")
        config, pixels = DetectorConfig.from_dict(facts["detector"]), bool(facts["pixels"])
        classes, category_ids = tuple(map(str, facts["classes"])), tuple(map(int, facts["category_ids"]))
        if not len(classes) == len(category_ids) == config.num_classes:
            raise ValueError(f"{len(classes)} class names and {len(category_ids)} category ids, not one per class")
        score_threshold = read_score_threshold(facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{fspath(path)!r} is inconsistent ({type(error).__name__}: {reason})") from error
    graph = DetectorGraph(Path(path), config, pixels=pixels, threads=threads)
    return TrainedDetector(graph, classes, category_ids, score_threshold)
