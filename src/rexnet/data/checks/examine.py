"""Facts about pictures that only their pixels and bytes tell."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from rexnet.data.decode import content_format, open_image
from rexnet.data.image_set import Source
from rexnet.errors import BadImageError
from rexnet.processes import in_parallel
from rexnet.text import normal_name, printable

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


class Examined(NamedTuple):
    """Some images in order: sizes (n,) as shown, upright, 0 where unreadable; `digest` (n, 2), equal for equal RGB
    pixels. By place: `reasons` why an image cannot be read, `contents` the format of one whose extension says another.
    """

    width_px: np.ndarray
    height_px: np.ndarray
    digest: np.ndarray
    reasons: dict[int, str]
    contents: dict[int, str]


class Pictures(Protocol):
    """What is examined; an `ImageSet` is one."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def source(self, index: int) -> Source: ...


class Examiner:
    """Examines the images at the given positions of a set."""

    def __init__(self, images: Pictures):
        self._images = images

    def __call__(self, positions: Sequence[int]) -> Examined:
        count = len(positions)
        found = Examined(np.zeros(count, np.int32), np.zeros(count, np.int32), np.zeros((count, 2), np.uint64), {}, {})
        for place, index in enumerate(positions):
            try:
                picture, content = self._open(index)
            except BadImageError as error:
                found.reasons[place] = error.reason
                continue
            found.width_px[place], found.height_px[place] = picture.size
            found.digest[place] = _digest(picture)
            if content:
                extension = os.path.splitext(self._images.name(index))[1].lower()
                if extension and extension not in _EXTENSIONS[content]:
                    found.contents[place] = content
        return found

    def _open(self, index: int) -> tuple[Image.Image, str | None]:
        """The picture, and the format of its file if it has one."""
        source = self._images.source(index)
        return (source, None) if isinstance(source, Image.Image) else (open_image(source), content_format(source))


def _digest(picture: Image.Image) -> np.ndarray:
    state = hashlib.blake2b(repr(picture.size).encode(), digest_size=16)
    state.update(picture.tobytes())
    return np.frombuffer(state.digest(), dtype=np.uint64)


def examine(images: Pictures, *, workers: int, label: str) -> Iterator[Examined]:
    """All of them, in order and in pieces."""
    count = len(images)
    tasks = [range(start, min(start + _IMAGES_A_TASK, count)) for start in range(0, count, _IMAGES_A_TASK)]
    yield from in_parallel(Examiner(images), tasks, workers=workers if len(tasks) > 1 else 0, label=label)


class Gathered:
    """A row an image in the order in which they were examined, in flat arrays; width 0 where it cannot be read."""

    def __init__(self, count: int):
        self.filled = 0
        self.width_px, self.height_px = np.zeros(count, np.int32), np.zeros(count, np.int32)
        self.digest = np.zeros((count, 2), np.uint64)
        self.reasons: dict[int, str] = {}
        self.contents: dict[int, str] = {}

    def add(self, examined: Examined) -> None:
        start, stop = self.filled, self.filled + len(examined.width_px)
        self.width_px[start:stop], self.height_px[start:stop] = examined.width_px, examined.height_px
        self.digest[start:stop] = examined.digest
        self.reasons.update((start + place, reason) for place, reason in examined.reasons.items())
        self.contents.update((start + place, content) for place, content in examined.contents.items())
        self.filled = stop


def same_pixels(digest: np.ndarray, readable: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of two or more images with equal pixels, ascending, a group at a time."""
    rows = np.flatnonzero(readable)
    if not len(rows):
        return
    order = rows[np.lexsort(digest[rows].T)]
    changes = np.flatnonzero((digest[order[1:]] != digest[order[:-1]]).any(axis=1)) + 1
    for group in np.split(order, changes):
        if len(group) > 1:
            yield np.sort(group)


def default_min_size_px(shorter_px: np.ndarray) -> float:
    """What counts as tiny where nobody says, from all shorter sides."""
    # Relative, so that a set of small pictures does not drown in its own size.
    return min(_LARGEST_DEFAULT_MIN_SIZE_PX, float(np.median(shorter_px)) / 4) if len(shorter_px) else 1


def size_spread(values: np.ndarray) -> dict[str, float]:
    """Keys smallest, median and largest; none without values."""
    if not len(values):
        return {}
    return {"smallest": int(values.min()), "median": float(np.median(values)), "largest": int(values.max())}


def class_balance(by_class: dict[str, int]) -> dict[str, float]:
    """Keys smallest, largest and ratio, over the classes that have something."""
    filled = [count for count in by_class.values() if count]
    if not filled:
        return {}
    return {"smallest": min(filled), "largest": max(filled), "ratio": round(max(filled) / min(filled), 3)}


def near_equal(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ in case, blanks or Unicode's form only."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(" ".join(normal_name(name).casefold().split()), []).append(printable(name))
    return [group for group in groups.values() if len(group) > 1]
