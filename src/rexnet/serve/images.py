"""Images of a request: files of a form, in one of a few formats and within the pixel limit."""

import asyncio
import re
import sys
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from PIL import Image
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from rexnet.data.decode import content_format, open_image
from rexnet.errors import BadImageError, TooManyPixelsError
from rexnet.serve.http_errors import HTTPError, quoted

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""Formats that browsers write and display. The decoders of all others are not exposed to untrusted files."""
IMAGE_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                    },
                    "required": ["image"],
                }
            }
        },
    }
}
"""OpenAPI: image files, all under the name `image`."""
_CURL = "send one with curl -F image=@photo.jpg, and more with further -F image=@FILE"
_PIECE_BYTES = 2**18
_MAX_SCANS = 100
"""Maximum number of scans in a JPEG; encoders write about a dozen. A scan covers the whole image but may take only
twenty bytes."""
_SCAN, _END = 0xDA, 0xD9
# Scan data has 0xff only before 0x00 and restart markers.
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")


class Upload(NamedTuple):
    """An image file, as sent."""

    name: str
    content: bytes


class _Form(MultiPartParser):
    """Starlette's parser, with files in memory and never on disk."""

    spool_max_size = sys.maxsize

    def __init__(self, body: bytes, content_type: str, *, most: int):
        super().__init__(Headers({"content-type": content_type}), self._pieces(body), max_files=most, max_fields=most)
        self._most = most
        self._parts = 0
        self._whole = False

    async def _pieces(self, body: bytes) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), _PIECE_BYTES):
            yield body[start : start + _PIECE_BYTES]
            await asyncio.sleep(0)  # let the event loop serve other requests
        if not self._whole:
            raise HTTPError(400, "the form is truncated: its closing boundary is missing")

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._parts += 1
        if self._parts > self._most:
            raise HTTPError(413, f"the form has more than {self._most} parts, the limit of images per request")

    def on_end(self) -> None:
        self._whole = True


async def read_uploads(body: bytes, content_type: str, *, most: int) -> list[Upload]:
    """Return the files named `image` of a form, from 1 to `most`. Raise HTTPError with 400, 413 or 415 for anything
    else."""
    if parse_options_header(content_type)[0] != b"multipart/form-data":
        raise HTTPError(415, f"the request is not a form (multipart/form-data); {_CURL}")
    try:
        form = await _Form(body, content_type, most=most).parse()
    except MultiPartException as error:
        raise HTTPError(400, f"the form cannot be read: {error.message}") from error
    uploads = []
    try:
        for name, value in form.multi_items():
            if name != "image" or isinstance(value, str):
                kind = "text" if isinstance(value, str) else "file"
                raise HTTPError(400, f"the form has a {kind} named {quoted(name)}; allowed: files named image; {_CURL}")
            uploads.append(Upload(value.filename or "", await value.read()))
    finally:
        await form.close()
    if not uploads:
        raise HTTPError(400, f"the form has no file named image; {_CURL}")
    return uploads


def open_upload(content: bytes, *, max_pixels: int) -> Image.Image:
    """Return the image, RGB and upright. Raise HTTPError with 400 for a damaged or truncated image, 413 for too many
    pixels, checked before decoding, and 415 for another format."""
    if not content:
        raise HTTPError(400, "the image is empty; send the bytes of an image file")
    if content_format(content) not in FORMATS:
        raise HTTPError(415, "the image is in another format; allowed: JPEG, PNG, WebP, GIF")
    if _count_scans(content) > _MAX_SCANS:
        raise HTTPError(400, f"the image is a JPEG of more than {_MAX_SCANS} scans; save it as a baseline JPEG")
    try:
        return open_image(content, max_pixels=max_pixels)
    except TooManyPixelsError as error:
        raise HTTPError(413, f"the image is too large: {error.reason}") from error
    except BadImageError as error:
        raise HTTPError(400, f"the image cannot be read: {error.reason}") from error
    except MemoryError as error:
        raise HTTPError(413, "the image is too large for this machine's memory; send a smaller one") from error


def _count_scans(content: bytes) -> int:
    """Return the number of scans of a JPEG, at most one more than allowed; 0 for other formats."""
    if not content.startswith(b"\xff\xd8"):
        return 0
    count, place = 0, 2
    while count <= _MAX_SCANS and (marker := _MARKER.search(content, place)) and marker[1][0] != _END:
        count += marker[1][0] == _SCAN
        place = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2], "big"))
    return count
