"""Detection of objects in images: class names, boxes and masks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rexnet.data.decode import BadImagePolicy
from rexnet.data.image_stream import Images, each_image, image_reader, in_chunks, in_order
from rexnet.detection.checkpoints import TrainedDetector, detector_config, load_detector
from rexnet.detection.exported_detectors import DetectorGraph, load_exported
from rexnet.detection.native_body import with_native_body
from rexnet.detection.plot import draw_detections
from rexnet.engines.config import Engine
from rexnet.errors import BadImageError, require
from rexnet.processes import usable_cpus
from rexnet.references import DETECTORS, resolve
from rexnet.training.distributed import choose_device

_MOST_OBLONG = 30
"""Maximum aspect ratio: two-stage detectors limit the longer side, so the shorter side would shrink to a pixel."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Detections:
    """Objects in one image, by descending score, or the reason why the image could not be read."""

    image: str
    """Path as given; "" for images without a path."""
    source_image: Image.Image | None = None
    """Upright RGB image; boxes and masks are in its pixels."""
    classes: tuple[str, ...] = ()
    """Class names; label i + 1 is classes[i]."""
    output: dict[str, Tensor] = field(default_factory=dict)
    """Output of torchvision's detectors, on the CPU: boxes float32 (N, 4) as x0 y0 x1 y1, labels int64 (N,) from 1,
    scores float32 (N,), and for Mask R-CNN masks float32 (N, 1, H, W), 0 to 1."""
    error: str | None = None

    @property
    def boxes(self) -> Tensor:
        """Return boxes, float32 (N, 4): left, top, right, bottom in pixels of the image."""
        return self.output.get("boxes", torch.empty(0, 4))

    @property
    def scores(self) -> Tensor:
        """Return scores, float32 (N,), 0 to 1."""
        return self.output.get("scores", torch.empty(0))

    @property
    def masks(self) -> Tensor | None:
        """Return masks, bool (N, H, W); None from a detector without masks."""
        return self.output["masks"][:, 0] > 0.5 if "masks" in self.output else None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the class name of each object."""
        return tuple(self.classes[label - 1] for label in self.output.get("labels", torch.empty(0)).tolist())

    def plot(self, *, min_score: float = 0.5, font: str | None = None) -> Image.Image:
        """Return a copy of the image with the objects of at least `min_score`; `font` as for `draw_detections`. Raise
        ValueError for an image that could not be read."""
        if self.source_image is None:
            raise ValueError(f"there is nothing to plot for {self.image}: {self.error}")
        return draw_detections(self.source_image, self.output, classes=self.classes, min_score=min_score, font=font)

    def save(self, path: str | PathLike[str], *, min_score: float = 0.5, font: str | None = None) -> None:
        """Write the result of `plot` to an image file; the ending of `path` selects the format."""
        self.plot(min_score=min_score, font=font).save(path)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names).items()) or "nothing"
        return f"Detections({self.image!r}: {self.error or counts})"


class ObjectPredictor:
    """Trained detector with its class names. Detections in an image do not depend on the rest of the batch, except for
    rounding."""

    def __init__(
        self, source: str | PathLike[str] | TrainedDetector, *, threads: int | None = None, device: str = "auto"
    ):
        """Open `source`: a run folder or checkpoint of `rexnet detect train`, a result of `load_detector`, or a .onnx
        or .xml file of `rexnet export`, which runs on the CPU. `threads` read images and, on a CPU, compute; None: one
        per CPU. Raise ValueError as `load_detector` and `load_exported` do."""
        require(threads is None or threads >= 1, "threads", threads, "1 or more, or None")
        trained = source if isinstance(source, TrainedDetector) else _opened(source, threads)
        self.classes, self.category_ids = trained.classes, trained.category_ids
        exported = isinstance(trained.model, DetectorGraph)
        if exported and device not in ("auto", "cpu"):
            raise ValueError(f"device is {device!r}; allowed for a file of rexnet export: auto or cpu")
        self._fixed_shape = detector_config(trained.model).kind == "ssdlite"
        self.device = choose_device("cpu" if exported else device)
        self._threads = threads or usable_cpus()
        if threads:
            torch.set_num_threads(threads)
        self._model, self.engine = _in_engine(trained.model.eval().to(self.device), self.device, threads)

    def __call__(self, images: Images, *, min_score: float = 0.0) -> list[Detections]:
        """Return the detections in each image, in order; `images` as for `rexnet.Predictor`. Raise BadImageError for a
        file that cannot be read."""
        return list(self.stream(images, min_score=min_score))

    def stream(
        self, images: Images, *, min_score: float = 0.0, batch_size: int = 1, bad_image: BadImagePolicy = "error"
    ) -> Iterator[Detections]:
        """Yield the results of a call, for any number of images in constant memory; images are read one batch ahead.
        With bad_image "skip", an unreadable image yields its error."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; allowed: 1 or more")
        read = image_reader(self.check_shape, bad_image)
        ahead = in_order(read, each_image(images), threads=self._threads, ahead=2 * batch_size)
        for part in in_chunks(ahead, batch_size):
            yield from self._detect(part, min_score)

    def check_shape(self, image: Image.Image) -> Image.Image:
        """Return `image` unchanged. Raise BadImageError if its aspect ratio is too large for the detector."""
        if self._fixed_shape or max(image.size) <= _MOST_OBLONG * min(image.size):
            return image
        allowed = f"allowed: one side up to {_MOST_OBLONG} times the other"
        raise BadImageError(
            "", f"{image.width:,} x {image.height:,} pixels are too long and narrow for the detector; {allowed}"
        )

    @torch.inference_mode()
    def _detect(
        self, loaded: Sequence[tuple[str, Image.Image | BadImageError]], min_score: float
    ) -> Iterator[Detections]:
        images = [image for _, image in loaded if isinstance(image, Image.Image)]
        tensors = [as_tensor(image).to(self.device) for image in images]
        outputs: Iterator[dict[str, Tensor]] = iter(self._model(tensors) if tensors else [])
        for name, image in loaded:
            if isinstance(image, BadImageError):
                yield Detections(image=name, error=str(image))
                continue
            output = next(outputs)
            kept = output["scores"] >= min_score
            output = {key: values[kept].cpu() for key, values in output.items()}
            yield Detections(image=name, source_image=image, classes=self.classes, output=output)


def _in_engine(model: nn.Module, device: torch.device, threads: int | None) -> tuple[Any, Engine]:
    """Return the detector ready to predict, and its engine; PyTorch computes all but the backbone in "native"."""
    if isinstance(model, DetectorGraph):
        return model, model.engine
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    native = with_native_body(model, threads=threads) if device.type == "cpu" else None
    if native is None:
        return model, Engine(threads=threads)
    return native, Engine(backend="native", threads=threads)


def _opened(model: str | PathLike[str], threads: int | None) -> TrainedDetector:
    reference = resolve(model, allowed=DETECTORS)
    return load_exported(reference.path, threads=threads) if reference.kind == "exported" else load_detector(model)


def as_tensor(image: Image.Image) -> Tensor:
    """Return the image as float32 (3, H, W), 0 to 1; the detector normalises it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
