"""Export of detectors to ONNX and OpenVINO files, whose detections must match PyTorch's."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from rexnet.detection.checkpoints import TrainedDetector, detector_config
from rexnet.detection.exported_detectors import describe_tensors, facts_of, output_names
from rexnet.detection.onnx_form import GraphForm, resize_by_whole_numbers
from rexnet.detection.runtime import as_tensor
from rexnet.engines.backends import Graph, engine_of_format, open_graph
from rexnet.engines.config import Format, check_graph_output
from rexnet.engines.graph_files import import_onnx, sample_images, trace, write_graph
from rexnet.errors import require
from rexnet.files import made_aside
from rexnet.text import printable, quantity

logger = logging.getLogger(__name__)

OPSET = 18
FORMATS: tuple[Format, ...] = ("onnx", "openvino")
SCORE = 1e-3
BOX_PX = 0.1
MASK = 0.005
"""Maximum differences between detections that count as equal; for masks, summed over pixels and divided by the box's
area."""
UNMATCHED = 0.02
UNMATCHED_IN_ONE = 0.1
"""Fractions of all detections, and of the detections in one image, that may lack a match: rounding decides between two
boxes whose overlap is at the threshold or whose scores are equal."""

Found = Sequence[np.ndarray]
"""Detections: boxes (N, 4), labels (N,), scores (N,) and, for Mask R-CNN, masks (N, 1, H, W)."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement between PyTorch's and a graph's detections in several images."""

    images: int
    detections: int
    """Number of PyTorch's detections."""
    score: float
    """Largest difference between two scores."""
    box_px: float
    """Largest difference between two coordinates, in pixels."""


def compare(pairs: Sequence[tuple[Found, Found]]) -> Agreement:
    """Compare PyTorch's and a graph's detections in each image. Raise ValueError if they differ."""
    worst = np.zeros(2)
    most_in_all = missing_in_all = 0
    for number, (ours, theirs) in enumerate(pairs):
        if [part.shape[1:] for part in ours] != [part.shape[1:] for part in theirs] or len(set(map(len, theirs))) > 1:
            shapes = [part.shape for part in theirs], [part.shape for part in ours]
            raise ValueError(f"the graph outputs {shapes[0]}, but PyTorch {shapes[1]}; nothing was written")
        matched = _match(ours, theirs)
        most = max(len(ours[0]), len(theirs[0]))
        if most - len(matched) > UNMATCHED_IN_ONE * most:
            raise ValueError(
                f"in image {number} PyTorch finds {len(ours[0])} objects and the graph {len(theirs[0])}, but only "
                f"{len(matched)} match; nothing was written"
            )
        most_in_all, missing_in_all = most_in_all + most, missing_in_all + most - len(matched)
        for mine, other in matched:
            differences = [np.abs(ours[part][mine] - theirs[part][other]).max() for part in (2, 0)]
            worst = np.maximum(worst, differences)
    if missing_in_all > UNMATCHED * most_in_all:
        raise ValueError(
            f"of {most_in_all} objects in {len(pairs)} images, the graph and PyTorch agree on only "
            f"{most_in_all - missing_in_all}; nothing was written"
        )
    detections = sum(len(ours[0]) for ours, _ in pairs)
    return Agreement(images=len(pairs), detections=detections, score=float(worst[0]), box_px=float(worst[1]))


def _match(ours: Found, theirs: Found) -> list[tuple[int, int]]:
    """Return index pairs of equal detections, each detection in at most one pair, in any order, since scores may
    tie."""
    alike = ours[1][:, None] == theirs[1]
    alike &= np.abs(ours[2][:, None] - theirs[2]) <= SCORE
    alike &= np.abs(ours[0][:, None] - theirs[0]).max(axis=2, initial=0) <= BOX_PX
    areas = (ours[0][:, 2:] - ours[0][:, :2]).prod(axis=1).clip(min=1)
    pairs, free = [], np.ones(len(theirs[0]), bool)
    for mine in range(len(ours[0])):
        for other in np.flatnonzero(alike[mine] & free):
            if len(ours) < 4 or np.abs(ours[3][mine] - theirs[3][other]).sum() <= MASK * areas[mine]:
                pairs.append((mine, int(other)))
                free[other] = False
                break
    return pairs


@dataclass(frozen=True, kw_only=True)
class ExportedDetector:
    """File that `export_detector` wrote."""

    path: Path
    bytes: int
    kind: str
    classes: tuple[str, ...]
    agreement: Agreement

    def describe(self) -> str:
        """Return two lines for the terminal."""
        found = self.agreement
        head = (
            f"{printable(self.path)}: {self.kind}, {quantity(len(self.classes), 'class')}, {self.bytes / 1e6:,.1f} MB"
        )
        differences = f"scores differ by up to {found.score:.1e} from PyTorch's, boxes by {found.box_px:.1e} px"
        return f"{head}\n{quantity(found.detections, 'detection')} in {quantity(found.images, 'image')}: {differences}"


def export_detector(
    trained: TrainedDetector,
    path: str | PathLike[str],
    *,
    format: Format | None = None,
    pixels: bool = False,
    verify: str | None = None,
    overwrite: bool = False,
) -> ExportedDetector:
    """Write a graph for one image of any size; `trained` is not changed.

    `format` None: by the ending of `path`. `pixels`: the file takes uint8. The file is run on the images of the folder
    `verify` or of `sample_images`, and on blank ones, and is kept only if its detections match PyTorch's with images
    resized by `resize_by_whole_numbers`. Raise ValueError if they do not, or for an invalid path or format.
    """
    path = Path(path)
    kind = check_graph_output(path, format, overwrite=overwrite)
    require(kind in FORMATS, "output", path, "a name that ends in .onnx or .xml for a detector")
    images = _images_to_compare(verify)
    model = resize_by_whole_numbers(trained.model)
    with made_aside(path) as inside:
        graph = import_onnx().load_model_from_string(_trace(model, pixels=pixels))
        texts = describe_tensors(detector_config(model), pixels=pixels)
        for tensor in (*graph.graph.input, *graph.graph.output):
            tensor.doc_string = texts[tensor.name]
        write_graph(graph, facts_of(trained, pixels=pixels), inside)
        graph = open_graph(inside, engine_of_format(inside), any_shape=True)
        agreement = compare([_both(model, graph, image, pixels=pixels) for image in images])
        size = sum(file.stat().st_size for file in inside.parent.iterdir())
    if not agreement.detections:
        logger.warning(
            "neither PyTorch nor the file detects anything in the images compared; give other images with --verify "
            "FOLDER"
        )
    config = detector_config(model)
    return ExportedDetector(path=path, bytes=size, kind=config.kind, classes=trained.classes, agreement=agreement)


def _images_to_compare(verify: str | None) -> list[Image.Image]:
    """Return images of several sizes, among them wide, tall and blank ones."""
    images = sample_images(verify)
    turned = images[0].transpose(Image.Transpose.ROTATE_90)
    smaller = images[1].resize((images[1].width // 3 + 1, images[1].height // 2 + 1))
    blank = [Image.new("RGB", (width, height), shade) for width, height, shade in ((200, 150, 0), (120, 210, 0xFFFFFF))]
    return [*images, turned, smaller, *blank]


def _trace(model: nn.Module, *, pixels: bool) -> bytes:
    """Return the bytes of an ONNX file. Tracing keeps sizes and counts in torchvision's detectors dynamic."""
    image = torch.zeros(96, 128, 3, dtype=torch.uint8) if pixels else torch.zeros(3, 96, 128)
    names = output_names(detector_config(model))
    axes: dict[str, dict[int, str]] = {name: {0: "detections"} for name in names}
    axes["image"] = {0: "height", 1: "width"} if pixels else {1: "height", 2: "width"}
    if "masks" in names:
        axes["masks"] |= {2: "height", 3: "width"}
    form = GraphForm(model, names, pixels=pixels)
    return trace(form, image, opset=OPSET, axes=axes, inputs=["image"], outputs=names)


@torch.inference_mode()
def _both(
    model: nn.Module, graph: Graph, sample: Image.Image, *, pixels: bool
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """Return PyTorch's and the file's detections in an image."""
    image = as_tensor(sample).contiguous()
    (found,) = model([image])
    return [found[name].numpy() for name in output_names(detector_config(model))], graph.run(
        np.array(sample) if pixels else image.numpy()
    )
