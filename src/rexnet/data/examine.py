"""Facts about pictures that only their pixels and bytes tell."""

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from rexnet.data.decode import BadImageError, content_format, open_image
from rexnet.data.labelled_images import ImageSet

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


class Examiner:
    """Examines the images at the given positions of a set."""

    def __init__(self, images: ImageSet):
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
