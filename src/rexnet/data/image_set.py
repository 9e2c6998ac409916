"""Labelled images by index: the one interface that loaders, reports and prediction read from."""

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from PIL import Image

from rexnet.data.decode import open_image
from rexnet.errors import BadImageError
from rexnet.text import normal_name

Source = str | bytes | Image.Image
"""Source of an image: the path of a file, its content, or upright RGB pixels."""


@final
@dataclass(frozen=True)
class FlatTexts:
    """Strings by position, stored without a Python object each: worker processes would gradually copy such objects as
    their reference counts change. Any file name can be stored, including undecodable ones. `text` is their
    concatenation, uint8; `ends` are their end positions."""

    text: np.ndarray
    ends: np.ndarray

    @classmethod
    def pack(cls, texts: Iterable[str]) -> Self:
        encoded = [os.fsencode(text) for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, position: int) -> str:
        start = self.ends[position - 1] if position else 0
        return os.fsdecode(self.text[start : self.ends[position]].tobytes())


class ImageSet(ABC):
    """Images with class indices `targets`, int64 (N,), into `classes`. Safe to send to spawned worker processes.

    Stores no Python object per image: worker processes would gradually copy such objects as their reference counts
    change.
    """

    def __init__(self, targets: np.ndarray | Sequence[int], classes: Sequence[str]):
        self.classes = tuple(classes)
        self.targets = np.asarray(targets, dtype=np.int64)
        # Position of each image in the whole set; a subset shares the storage and differs in its rows.
        self._rows = np.arange(len(self.targets))

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def missing_classes(self) -> tuple[str, ...]:
        """Return the classes without an image in this set."""
        counts = np.bincount(self.targets, minlength=len(self.classes))
        return tuple(name for name, count in zip(self.classes, counts, strict=True) if not count)

    def subset(self, chosen: np.ndarray) -> Self:
        """Return the images at the positions `chosen`, (n,)."""
        other = copy.copy(self)
        other.targets, other._rows = self.targets[chosen], self._rows[chosen]
        return other

    def with_classes(self, classes: Sequence[str]) -> Self:
        """Return the same images with targets that index `classes`, matched by Unicode normal form; every class that
        has images must be among them."""
        position = {normal_name(name): index for index, name in enumerate(classes)}
        renumbered = np.array([position.get(normal_name(name), -1) for name in self.classes], dtype=np.int64)
        other = copy.copy(self)
        other.classes, other.targets = tuple(classes), renumbered[self.targets]
        assert not (other.targets < 0).any(), "a class of the images is not among `classes`"
        return other

    def rename_classes(self, classes: Sequence[str]) -> Self:
        """Return the same images and targets with the classes renamed to `classes`, in order."""
        other = copy.copy(self)
        other.classes = tuple(classes)
        return other

    def load(self, index: int) -> Image.Image:
        """Return the image in mode RGB, upright. Raise BadImageError."""
        source = self.source(index)
        try:
            return source if isinstance(source, Image.Image) else open_image(source)
        except BadImageError as error:
            raise BadImageError(self.name(index), error.reason) from error

    @abstractmethod
    def source(self, index: int) -> Source:
        """Return the image's file, its bytes, or an RGB image, for readers that need not decode all pixels. Raise
        BadImageError if the bytes cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the image's name for reports: its path, or `digits/12`."""


@final
class FileImages(ImageSet):
    """Image files, opened on demand."""

    def __init__(self, paths: Sequence[str], targets: np.ndarray | Sequence[int], classes: Sequence[str]):
        super().__init__(targets, classes)
        self._paths = FlatTexts.pack(paths)

    def source(self, index: int) -> str:
        return self.name(index)

    def name(self, index: int) -> str:
        return self._paths[self._rows[index]]


@final
class ArrayImages(ImageSet):
    """Images in memory: `pixels` uint8, (N, H, W) gray or (N, H, W, 3) red, green, blue. `numbers` (N,) are positions
    in the set called `label`, used in names."""

    def __init__(
        self, pixels: np.ndarray, targets: np.ndarray, classes: Sequence[str], *, label: str, numbers: np.ndarray
    ):
        super().__init__(targets, classes)
        self._pixels, self._label, self._numbers = pixels, label, numbers

    def source(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[self._rows[index]]).convert("RGB")

    def name(self, index: int) -> str:
        return f"{self._label}/{self._numbers[self._rows[index]]}"


@final
class PartlyLabelledImages(ImageSet):
    """Labelled images, followed by unlabelled ones, whose target is an additional last class."""

    def __init__(self, labelled: ImageSet, unlabelled: ImageSet):
        targets = np.concatenate([labelled.targets, np.full(len(unlabelled), len(labelled.classes))])
        super().__init__(targets, (*labelled.classes, "unlabelled"))
        self._parts = (labelled, unlabelled)

    def source(self, index: int) -> Source:
        images, position = self._place(index)
        return images.source(position)

    def name(self, index: int) -> str:
        images, position = self._place(index)
        return images.name(position)

    def _place(self, index: int) -> tuple[ImageSet, int]:
        (labelled, unlabelled), row = self._parts, int(self._rows[index])
        return (labelled, row) if row < len(labelled) else (unlabelled, row - len(labelled))
