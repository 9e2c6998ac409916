"""Decoding of image files to RGB pixels. Training, validation, prediction and serving all use `open_image`, so an image
has the same pixels everywhere."""

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from rexnet.errors import BadImageError, TooManyPixelsError
from rexnet.options import Argument

logger = logging.getLogger(__name__)

# Warnings about damaged metadata do not name the file; a filter per image would not be thread-safe.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

BadImagePolicy = Annotated[
    Literal["error", "skip"],
    Argument(help="Unreadable files: stop at the first one (error), or log and skip them (skip)."),
]

# A 108-megapixel photo passes, 16,000 x 16,000 does not; RGB plus one working copy stays below 1 GiB.
MAX_PIXELS = 128_000_000

# Formats are recognised by content, never by name. The readers are called directly, because Image.open
# has a global pixel limit of its own, and passes a JPEG with an embedded preview or gain map to another
# reader, which warns about damage in parts that are never read here.
_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"P[1-6fF]\s"), PpmImageFile),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), AvifImageFile),
)
_HEIC = re.compile(rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)

_EXIF_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    source: str | Path | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> Image.Image:
    """Decode the first image of a file into mode RGB, `upright` (EXIF orientation applied and removed) or as stored.
    Transparent parts are composited over white. More than 8 bits per sample are scaled by the full range of the format
    (16-bit gray keeps its high byte, as Pillow does for 16-bit colour); float and 32-bit data, whose files state no
    range, by `_to_8_bits`. CMYK is converted without a colour profile; embedded profiles are ignored.

    Raise BadImageError for anything but a complete image in a known format (by content, not by name) with at most
    `max_pixels` pixels; the limit is checked in the header, before pixels are decoded.
    """
    with _opened(source) as (stream, name), _refusing(name):
        return _as_rgb(_read_header(stream, name, max_pixels), upright=upright)


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image opened by Pillow to the pixels that `open_image` returns for its file. Raise BadImageError if
    its data is damaged."""
    with _refusing(""):
        return _as_rgb(image, upright=True)


def _as_rgb(image: Image.Image, *, upright: bool) -> Image.Image:
    image.load()
    orientation = exif_orientation(
        image
    )  # after load(): PNG may store it after the pixels, and TIFF is upright by then
    rgb = _to_rgb(image)
    if upright and orientation in _EXIF_TRANSPOSE:
        rgb = rgb.transpose(_EXIF_TRANSPOSE[orientation])
    rgb.info.clear()  # otherwise a later exif_transpose would rotate the image a second time
    return rgb


def stored_size_px(source: str | Path) -> tuple[int, int]:
    """Return (width, height) from the header alone, before orientation. Raise BadImageError like `open_image`."""
    with _opened(source) as (stream, name), _refusing(name):
        return _read_header(stream, name, MAX_PIXELS).size


def content_format(source: str | Path | bytes | BinaryIO) -> str | None:
    """Return the format that the first bytes indicate: JPEG, PNG, GIF, WEBP, TIFF, BMP, PPM or AVIF; None for anything
    else. Raise BadImageError for a file that cannot be opened."""
    with _opened(source) as (stream, _):
        head = stream.read(16)
    return next((reader.format for signature, reader in _READERS if signature.match(head)), None)


@contextmanager
def _opened(source: str | Path | bytes | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source), ""
    elif isinstance(source, str | Path):
        with _opened_file(os.fspath(source)) as stream:
            yield stream, os.fspath(source)
    else:
        name = getattr(source, "name", "")
        yield source, name if isinstance(name, str) else ""


def _opened_file(name: str) -> BinaryIO:
    try:
        return open(name, "rb")
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise BadImageError(name, _why_not_opened(name, error)) from error


def _why_not_opened(name: str, error: OSError | ValueError) -> str:
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, FileNotFoundError):
        return "it is a link to a file that does not exist" if os.path.islink(name) else "there is no such file"
    return str(error.strerror if isinstance(error, OSError) else error).lower()


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Raise BadImageError for the exceptions, of almost any type, that Pillow raises for damaged data."""
    try:
        yield
    except (BadImageError, MemoryError):
        raise
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(name, f"its data is damaged or incomplete ({detail})") from error


def _read_header(stream: BinaryIO, name: str, max_pixels: int) -> ImageFile.ImageFile:
    head = stream.read(16)
    if not head:
        raise BadImageError(name, "the file is empty")
    reader = next((reader for signature, reader in _READERS if signature.match(head)), None)
    if reader is None:
        if _HEIC.match(head):
            raise BadImageError(name, "it is in the HEIC format; convert it to JPEG or PNG first")
        raise BadImageError(name, "its content is not JPEG, PNG, GIF, WebP, TIFF, BMP, PNM or AVIF")
    stream.seek(0)
    image = reader(
        stream
    )  # no file name, with which Pillow would map the file into memory and crash if it shrinks meanwhile
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixelsError(name, f"it has {width:,} x {height:,} pixels, more than the {max_pixels:,} allowed")
    return image


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, where 1 is upright; other values are returned as found and have no
    meaning."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # unreadable EXIF is ignored; the image itself is intact
        logger.debug("unreadable EXIF data", exc_info=True)
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert gray with more than 8 bits to mode L.

    16-bit (and 12-bit TIFF) keeps the high byte. Wider integers in 0..65535 count as 16-bit; floats within 0..1, or
    else 0..255, are scaled from that range; any other range is stretched linearly from its minimum to its maximum.
    Raise ValueError for values that are not finite.
    """
    values = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    low, high = values.min(), values.max()
    if image.mode.startswith("I;") or (image.mode == "I" and low >= 0 and high <= 65535):
        bits = tags.get(BITSPERSAMPLE, (16,))[0] if image.mode != "I" else 16
        gray = values >> (bits - 8)
    else:
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("some values are not finite numbers")
        if image.mode == "F" and low >= 0 and high <= 255:
            low, high = 0, 1 if high <= 1 else 255
        span = float(high) - float(low)
        gray = np.rint((values.astype(np.float64) - float(low)) * (255 / span if span else 0))
    gray = gray.astype(np.uint8)
    if tags.get(PHOTOMETRIC_INTERPRETATION) == 0:  # "white is zero", which Pillow undoes for 8 bits and fewer only
        gray = 255 - gray
    return Image.fromarray(gray)
