"""Examination of the pixels and files of images, and the part common to all reports of `rexnet data check`."""

import dataclasses
import hashlib
import json
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from PIL import Image

from rexnet.data.decode import content_format, open_image
from rexnet.data.image_set import Source
from rexnet.errors import BadImageError
from rexnet.processes import in_parallel
from rexnet.text import printable

_IMAGES_A_TASK = 64
_LARGEST_DEFAULT_MIN_SIZE_PX = 32
_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "AVIF": (".avif",),
}


@dataclass(frozen=True, kw_only=True)
class Report(ABC):
    """Findings, as complete lists. Images are named by path, or as in their dataset."""

    counted: ClassVar[str]
    """Noun for the things that `classes` counts."""

    data: str
    images: int
    unreadable: list[dict[str, str]]
    """Keys image, reason."""
    tiny: list[dict[str, Any]]
    """Keys image, width_px, height_px."""
    wrong_extension: list[dict[str, str]]
    """Keys image, content."""
    duplicates_across_splits: list[list[str]]
    """Groups of images with the same pixels."""
    near_equal_classes: list[list[str]]
    """Groups of class names that differ only in case, spaces, invisible characters or Unicode normal form."""
    refused: list[str]
    """Error that would stop training; empty if there is none."""
    classes: dict[str, dict[str, int]]
    """Split -> class -> count. Data without splits has the split ""."""
    balance: dict[str, dict[str, float]]
    """Split -> counts of its smallest and largest class, and largest / smallest, without empty classes."""
    size_px: dict[str, dict[str, float]]
    """width, height and shorter_side -> smallest, median and largest."""
    min_size_px: float
    notes: list[str]
    """Facts that are not problems."""

    def to_json(self) -> str:
        return json.dumps({"clean": self.clean, **dataclasses.asdict(self)}, indent=2) + "\n"

    @property
    def clean(self) -> bool:
        return not any(self.problems().values())

    def problems(self) -> dict[str, list[str]]:
        """Return, by kind of problem, a line for each image, group or class."""
        return {
            "cannot be read": [f"{row['image']}: {row['reason']}" for row in self.unreadable],
            f"shorter side below {self.min_size_px:g} px": [
                f"{row['image']}: {row['width_px']} x {row['height_px']}" for row in self.tiny
            ],
            "extension of another format": [f"{row['image']}: {row['content']}" for row in self.wrong_extension],
            "same pixels in two splits": join_groups(self.duplicates_across_splits),
            "class names that are almost equal": [" = ".join(map(repr, group)) for group in self.near_equal_classes],
            **self.own_problems(),
            "stops training for another reason": self.refused,
        }

    @abstractmethod
    def own_problems(self) -> dict[str, list[str]]:
        """Return the problems that only this kind of data can have, in the form of `problems`."""


class Images(Protocol):
    """Interface of images to examine; `ImageSet` implements it."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def source(self, index: int) -> Source: ...


class Examined(NamedTuple):
    """Images in order: upright sizes (n,), 0 if unreadable; `digest` (n, 2), equal for equal RGB pixels. By position:
    `reasons`, why an image cannot be read; `contents`, the format of an image with another format's extension."""

    width_px: np.ndarray
    height_px: np.ndarray
    digest: np.ndarray
    reasons: dict[int, str]
    contents: dict[int, str]

    @classmethod
    def empty(cls, count: int) -> "Examined":
        return cls(np.zeros(count, np.int32), np.zeros(count, np.int32), np.zeros((count, 2), np.uint64), {}, {})


class Examiner:
    """Examiner of the images at given positions of a set."""

    def __init__(self, images: Images):
        self._images = images

    def __call__(self, positions: Sequence[int]) -> Examined:
        found = Examined.empty(len(positions))
        for place, index in enumerate(positions):
            try:
                image, content = self._open(index)
            except BadImageError as error:
                found.reasons[place] = error.reason
                continue
            found.width_px[place], found.height_px[place] = image.size
            found.digest[place] = _digest(image)
            if content:
                name = self._images.name(index)
                extension = os.path.splitext(name)[1].lower()
                if (extension or self._images.source(index) == name) and extension not in _EXTENSIONS[content]:
                    found.contents[place] = content
        return found

    def _open(self, index: int) -> tuple[Image.Image, str | None]:
        """Return the image, and the format of its file if it has one."""
        source = self._images.source(index)
        return (source, None) if isinstance(source, Image.Image) else (open_image(source), content_format(source))


def _digest(image: Image.Image) -> np.ndarray:
    state = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    state.update(image.tobytes())
    return np.frombuffer(state.digest(), dtype=np.uint64)


class ExaminedSplits:
    """All images of some splits in order, one row each."""

    def __init__(self, splits: Mapping[str, Images], *, workers: int):
        self._images = list(splits.values())
        self._starts = np.cumsum([0, *map(len, self._images)])
        self.found = Examined.empty(int(self._starts[-1]))
        self.split = np.repeat(np.arange(len(splits)), [len(images) for images in self._images])
        """Position of each row's split, int64 (n,)."""
        filled = 0
        for name, images in splits.items():
            tasks = [range(at, min(at + _IMAGES_A_TASK, len(images))) for at in range(0, len(images), _IMAGES_A_TASK)]
            parallel = workers if len(tasks) > 1 else 0
            for part in in_parallel(Examiner(images), tasks, workers=parallel, label=name or "checking"):
                rows = slice(filled, filled + len(part.width_px))
                for whole, piece in zip(self.found[:3], part[:3], strict=True):
                    whole[rows] = piece
                for whole, piece in zip(self.found[3:], part[3:], strict=True):
                    whole.update((filled + place, value) for place, value in piece.items())
                filled = rows.stop
        self.readable = self.found.width_px > 0

    def place(self, row: int) -> tuple[int, int]:
        """Return the position of a row's split, and its position within the split."""
        split = int(self.split[row])
        return split, row - int(self._starts[split])

    def name(self, row: int) -> str:
        split, index = self.place(row)
        return printable(self._images[split].name(index))

    def sized(self, row: int) -> dict[str, Any]:
        """Return the keys image, width_px and height_px."""
        width_px, height_px = int(self.found.width_px[row]), int(self.found.height_px[row])
        return {"image": self.name(row), "width_px": width_px, "height_px": height_px}

    def same_pixels(self) -> list[np.ndarray]:
        """Return the rows of images with equal pixels, in ascending groups of two or more."""
        rows = np.flatnonzero(self.readable)
        digest = self.found.digest
        order = rows[np.lexsort(digest[rows].T)]
        changes = np.flatnonzero((digest[order[1:]] != digest[order[:-1]]).any(axis=1)) + 1
        return [np.sort(group) for group in np.split(order, changes) if len(group) > 1]

    def facts(self, min_size_px: float | None) -> dict[str, Any]:
        """Return the fields of a `Report` about images; if `min_size_px` is None, it is derived from the images."""
        found, readable = self.found, self.readable
        shorter = np.minimum(found.width_px, found.height_px)
        if min_size_px is None:  # relative, so that not every image of a small-image dataset is reported
            largest = _LARGEST_DEFAULT_MIN_SIZE_PX
            min_size_px = min(largest, float(np.median(shorter[readable])) / 4) if readable.any() else 1
        sides = (("width", found.width_px), ("height", found.height_px), ("shorter_side", shorter))
        return {
            "images": len(readable),
            "unreadable": [{"image": self.name(row), "reason": why} for row, why in sorted(found.reasons.items())],
            "tiny": [self.sized(row) for row in np.flatnonzero(readable & (shorter < min_size_px)).tolist()],
            "wrong_extension": [
                {"image": self.name(row), "content": content} for row, content in sorted(found.contents.items())
            ],
            "size_px": {name: _size_spread(values[readable]) for name, values in sides},
            "min_size_px": min_size_px,
        }


def _size_spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {"smallest": int(values.min()), "median": float(np.median(values)), "largest": int(values.max())}


def class_balance(by_class: dict[str, int]) -> dict[str, float]:
    """Return the smallest and largest count and their ratio, over the classes that are not empty."""
    filled = [count for count in by_class.values() if count]
    if not filled:
        return {}
    return {"smallest": min(filled), "largest": max(filled), "ratio": round(max(filled) / min(filled), 3)}


def near_equal(names: Iterable[str]) -> list[list[str]]:
    """Return groups of names that differ only in case, spaces, invisible characters or Unicode normal form."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
        groups.setdefault(" ".join(visible.casefold().split()), []).append(printable(name))
    return [group for group in groups.values() if len(group) > 1]


def join_groups(groups: Sequence[Sequence[str]]) -> list[str]:
    return [" = ".join(group) for group in groups]
