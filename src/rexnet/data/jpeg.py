"""Fast reader of crops of JPEG images for training: libjpeg decodes a crop much larger than the network's input at a
half, a quarter or an eighth of its size."""

import io
import math
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from rexnet.data.decode import MAX_PIXELS, exif_orientation, open_image

# Reductions that libjpeg-turbo decodes with vector instructions; others cost more than they save.
_REDUCTIONS = (8, 4, 2)
# A reduced crop keeps this many times the needed pixels per side, so that sharpness is determined
# by the resizing that follows, not by libjpeg's block-wise one.
_MARGIN = 1.5
_START_OF_JPEG = b"\xff\xd8\xff"
_START_OF_SCAN = b"\xff\xda"
# EXIF and XMP data: Pillow reads the header only if there are any, because it takes ten times as long.
_APP1 = b"\xff\xe1"


class Box(NamedTuple):
    """Part of an upright image, in whole pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Return left, top, right, bottom; the last two are exclusive."""
        return self.left, self.top, self.left + self.width, self.top + self.height


@final
class Jpeg:
    """An ordinary JPEG with only its header parsed. `size` is (width, height), upright."""

    def __init__(self, source: str | Path | bytes, data: bytes, stored_size: tuple[int, int], orientation: int):
        self._source, self._data, self._stored_size, self._orientation = source, data, stored_size, orientation
        width, height = stored_size
        self.size = (height, width) if orientation in (5, 6, 7, 8) else stored_size

    def crop(self, box: Box, least_px: int) -> np.ndarray:
        """Return the pixels of `box`, uint8 (H, W, 3) red, green, blue, upright: those of `open_image` or, if both
        sides then still have 1.5 times `least_px`, the box at a half, a quarter or an eighth of its size, with edges at
        most one reduced pixel off. Raise BadImageError if `open_image` would.
        """
        reduction = next((r for r in _REDUCTIONS if min(box.width, box.height) >= r * _MARGIN * least_px), 1)
        pixels = self._decode(reduction)
        if pixels is None:
            return np.asarray(open_image(self._source).crop(box.corners))
        left, top, right, bottom = (round(edge / reduction) for edge in box.corners)
        return _upright(pixels, self._orientation)[top:bottom, left:right]

    def _decode(self, reduction: int) -> np.ndarray | None:
        """Return all stored pixels; None for data with any damage, which `open_image` may still accept."""
        width, height = (math.ceil(side / reduction) for side in self._stored_size)
        try:
            pixels = simplejpeg.decode_jpeg(
                self._data, "RGB", min_width=width, min_height=height, min_factor=reduction, strict=True
            )
        except ValueError:
            return None
        return pixels if pixels.shape[:2] == (height, width) else None


def open_jpeg(source: str | Path | bytes) -> Jpeg | None:
    """Read the header; None for files that are left to `open_image`: another format, colours other than RGB and gray,
    too many pixels, an unreadable file or a damaged header."""
    try:
        data = source if isinstance(source, bytes) else _read_file(source)
        if not data.startswith(_START_OF_JPEG):
            return None
        size, orientation = _read_header(data)
    except Exception:  # `open_image` gets the same error and reports it
        return None
    return Jpeg(source, data, size, orientation) if math.prod(size) <= MAX_PIXELS else None


def _read_header(data: bytes) -> tuple[tuple[int, int], int]:
    """Return the stored (width, height) and the orientation. Raise ValueError for colours other than RGB and gray."""
    if _APP1 in data[: data.find(_START_OF_SCAN)]:
        header = JpegImageFile(io.BytesIO(data))
        if header.mode not in ("RGB", "L"):
            raise ValueError(header.mode)
        return header.size, exif_orientation(header)
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    if colours not in ("YCbCr", "Gray"):
        raise ValueError(colours)
    return (int(width), int(height)), 1


def _read_file(path: str | Path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return a view of stored pixels (H, W, 3), rotated and flipped according to EXIF orientation 1 to 8."""
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.swapaxes(0, 1)
        case 6:
            return np.rot90(pixels, -1)
        case 7:
            return pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(pixels)
    return pixels
