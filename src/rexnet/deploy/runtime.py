"""Predictor: image files in, class names with probabilities out."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rexnet.data.decode import BadImageError, BadImagePolicy, open_image
from rexnet.data.transforms import Preprocess
from rexnet.models.rexnet import RexNet
from rexnet.training.checkpoint import load
from rexnet.training.distributed import choose_device

logger = logging.getLogger(__name__)

ImageSource = str | Path | bytes | Image.Image


@dataclass(frozen=True, kw_only=True)
class ScoredClass:
    """One class name and its probability, 0 to 1."""

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the network says about one image: its most probable classes, best first, or why it could not be read."""

    image: str
    """Path as given; "" for images that have none."""
    classes: tuple[ScoredClass, ...] = ()
    error: str | None = None

    @property
    def best(self) -> ScoredClass:
        """Raises ValueError for an image that could not be read."""
        if not self.classes:
            raise ValueError(f"there is no prediction for {self.image}: {self.error}")
        return self.classes[0]


class Predictor:
    """A trained classifier with the class names and the preprocessing it was trained with.

    An image's prediction does not depend on the images beside it.
    """

    def __init__(self, model: RexNet, *, classes: Sequence[str], preprocess: Preprocess, device: str = "auto"):
        if model.num_classes != len(classes):
            raise ValueError(f"{len(classes)} class names given for a model of {model.num_classes} classes")
        self.classes = tuple(classes)
        self.preprocess = preprocess
        self.device = choose_device(device)
        self._model = model.eval().to(self.device).to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "auto") -> "Predictor":
        """From a checkpoint of this project, `best.pt` or its `.safetensors`; errors as of `rexnet.load`."""
        model = load(path)
        return cls(model, classes=model.classes, preprocess=model.preprocess, device=device)

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, S, S) -> softmax over the classes, float32 (B, K), on the CPU.

        ValueError for a network whose output is not finite.
        """
        images = images.to(self.device, memory_format=torch.channels_last)
        found = self._model(images).float().softmax(dim=1).cpu()
        if not found.isfinite().all():
            raise ValueError("what the network puts out is not finite (nan or inf): its training has failed")
        return found

    def __call__(self, images: Iterable[ImageSource], *, top_k: int = 5) -> list[Prediction]:
        """A list of paths, encoded bytes or upright RGB pictures -> predictions in order.

        BadImageError for one that cannot be read, ValueError for anything else, such as a tensor or a picture in
        another mode than RGB.
        """
        return list(self.stream(images, top_k=top_k))

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        top_k: int = 5,
        batch_size: int = 32,
        bad_image: BadImagePolicy = "error",
        decoding_threads: int = 2,
    ) -> Iterator[Prediction]:
        """Like calling, one batch in memory at a time; with bad_image "skip" an unreadable image yields its error."""
        if isinstance(images, ImageSource):
            raise ValueError(f"images is a single {type(images).__name__}; pass a list of images")
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; allowed: 1 or more")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; allowed: 1 or more")
        remaining = iter(images)
        with ThreadPoolExecutor(decoding_threads) as pool:
            while chunk := list(islice(remaining, batch_size)):
                loaded = list(pool.map(self._load, chunk))
                for item in loaded:
                    if isinstance(item, BadImageError) and bad_image == "error":
                        raise item
                yield from self._predict(chunk, loaded, top_k)

    def _load(self, source: ImageSource) -> Tensor | BadImageError:
        if not isinstance(source, ImageSource):
            raise ValueError(
                f"one of the images is a {type(source).__name__}; allowed: a path, the bytes of an image file, or a "
                "picture of Pillow; `probabilities` takes preprocessed tensors"
            )
        try:
            image = source if isinstance(source, Image.Image) else open_image(source)
        except BadImageError as error:
            return error
        if image.mode != "RGB":
            raise ValueError(
                f"a picture of mode {image.mode} was given; pass its file, or RGB as `open_image` makes it"
            )
        return self.preprocess(image)

    def _predict(
        self, sources: Sequence[ImageSource], loaded: Sequence[Tensor | BadImageError], top_k: int
    ) -> Iterator[Prediction]:
        tensors = [item for item in loaded if isinstance(item, Tensor)]
        scores = iter(self.probabilities(torch.stack(tensors)) if tensors else ())
        for source, item in zip(sources, loaded, strict=True):
            name = str(source) if isinstance(source, str | Path) else ""
            if isinstance(item, BadImageError):
                yield Prediction(image=name, error=str(item))
                continue
            best = next(scores).topk(min(top_k, len(self.classes)))
            names = [self.classes[index] for index in best.indices.tolist()]
            pairs = zip(names, best.values.tolist(), strict=True)
            yield Prediction(image=name, classes=tuple(ScoredClass(name=n, probability=p) for n, p in pairs))
