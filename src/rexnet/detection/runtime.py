"""ObjectPredictor: pictures in, named boxes and masks out."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rexnet.data.decode import BadImageError, BadImagePolicy, open_image
from rexnet.detection.detector_files import TrainedDetector, load_detector
from rexnet.training.distributed import choose_device

ImageSource = str | Path | bytes | Image.Image


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one picture, the surest first, or why it could not be read."""

    image: str
    """Path as given; "" for pictures that have none."""
    picture: Image.Image | None = None
    """RGB, upright; boxes and masks are in its pixels."""
    names: tuple[str, ...] = ()
    output: dict[str, Tensor] = field(default_factory=dict)
    """Of torchvision's detectors, on the CPU: boxes float32 (N, 4) as x0 y0 x1 y1, labels int64 (N,) from 1, scores
    float32 (N,), and of Mask R-CNN masks float32 (N, 1, H, W), 0 to 1."""
    error: str | None = None


class ObjectPredictor:
    """A trained detector with the names of what it finds. What it finds in a picture does not depend on the pictures
    beside it, but for rounding."""

    def __init__(self, trained: TrainedDetector, *, device: str = "auto"):
        self.classes, self.category_ids = trained.classes, trained.category_ids
        self.device = choose_device(device)
        self._model: Any = trained.model.eval().to(self.device)
        self._model.to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "auto") -> "ObjectPredictor":
        """From best.pt of `rexnet detect train`; errors as of `load_detector`."""
        return cls(load_detector(path), device=device)

    def __call__(self, images: Iterable[ImageSource], *, min_score: float = 0.0) -> list[Detections]:
        """A list of paths, encoded bytes or upright RGB pictures -> what is in each, in order. BadImageError for one
        that cannot be read."""
        return list(self.stream(images, min_score=min_score))

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        min_score: float = 0.0,
        batch_size: int = 1,
        bad_image: BadImagePolicy = "error",
    ) -> Iterator[Detections]:
        """Like calling, one batch in memory at a time; with bad_image "skip" an unreadable picture yields its error."""
        if isinstance(images, ImageSource):
            raise ValueError(f"images is a single {type(images).__name__}; pass a list of images")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; allowed: 1 or more")
        remaining = iter(images)
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(_read, list(islice(remaining, batch_size)))
            while loaded := ahead.result():
                ahead = reader.submit(_read, list(islice(remaining, batch_size)))
                if bad_image == "error":
                    for _, picture in loaded:
                        if isinstance(picture, BadImageError):
                            raise picture
                yield from self._detect(loaded, min_score)

    @torch.inference_mode()
    def _detect(
        self, loaded: Sequence[tuple[ImageSource, Image.Image | BadImageError]], min_score: float
    ) -> Iterator[Detections]:
        pictures = [picture for _, picture in loaded if isinstance(picture, Image.Image)]
        tensors = [_tensor(picture).to(self.device) for picture in pictures]
        outputs: Iterator[dict[str, Tensor]] = iter(self._model(tensors) if tensors else [])
        for source, picture in loaded:
            name = str(source) if isinstance(source, str | Path) else ""
            if isinstance(picture, BadImageError):
                yield Detections(image=name, error=str(picture))
                continue
            output = next(outputs)
            kept = output["scores"] >= min_score
            output = {key: values[kept].cpu() for key, values in output.items()}
            names = tuple(self.classes[label - 1] for label in output["labels"].tolist())
            yield Detections(image=name, picture=picture, names=names, output=output)


def _read(sources: list[ImageSource]) -> list[tuple[ImageSource, Image.Image | BadImageError]]:
    return [(source, _open(source)) for source in sources]


def _open(source: ImageSource) -> Image.Image | BadImageError:
    if isinstance(source, Image.Image):
        if source.mode != "RGB":
            raise ValueError(
                f"a picture of mode {source.mode} was given; pass its file, or RGB as `open_image` makes it"
            )
        return source
    try:
        return open_image(source)
    except BadImageError as error:
        return error


def _tensor(picture: Image.Image) -> Tensor:
    """float32 (3, H, W), 0 to 1; the detector normalises."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)
