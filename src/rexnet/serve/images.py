"""Images out of requests: few formats, and no more pixels than allowed."""

import re

from PIL import Image

from rexnet.data.decode import content_format, open_image
from rexnet.errors import BadImageError, TooManyPixelsError
from rexnet.serve.http_errors import HTTPError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What browsers make and show. The readers of other formats stay out of a stranger's reach."""
_MOST_SCANS = 100
"""Of a JPEG, whose encoders write a dozen. Each goes over the whole image, and may have twenty bytes."""
_SCAN, _END = 0xDA, 0xD9
# In the data of a scan 0xff stands before 0x00 and the numbers of restarts only.
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")


def open_sent(content: bytes, *, max_pixels: int) -> Image.Image:
    """RGB and upright. HTTPError with 400 for what is no whole image, 413 for too many pixels, before any is decoded,
    and 415 for another format."""
    if not content:
        raise HTTPError(400, "the image is empty; send the bytes of an image file")
    if content_format(content) not in FORMATS:
        raise HTTPError(415, "the image is not in a format that is taken here; allowed: JPEG, PNG, WebP, GIF")
    if _scans(content) > _MOST_SCANS:
        raise HTTPError(400, f"the image is a JPEG of more than {_MOST_SCANS} scans; save it anew")
    try:
        return open_image(content, max_pixels=max_pixels)
    except TooManyPixelsError as error:
        raise HTTPError(413, f"the image is too large: {error.reason}") from error
    except BadImageError as error:
        raise HTTPError(400, f"the image cannot be read: {error.reason}") from error
    except MemoryError as error:
        raise HTTPError(413, "the image is too large for this machine's memory; send a smaller one") from error


def _scans(content: bytes) -> int:
    """Of a JPEG, up to one more than are allowed; 0 of other formats."""
    if not content.startswith(b"\xff\xd8"):
        return 0
    count, place = 0, 2
    while count <= _MOST_SCANS and (marker := _MARKER.search(content, place)) and marker[1][0] != _END:
        count += marker[1][0] == _SCAN
        place = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2], "big"))
    return count
