"""Pictures out of requests: few formats, and no more pixels than allowed."""

from PIL import Image

from rexnet.data.decode import BadImageError, TooManyPixelsError, content_format, open_image
from rexnet.serve.refusals import Refusal

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What browsers make and show. The readers of other formats stay out of a stranger's reach."""


def open_sent(content: bytes, *, max_pixels: int) -> Image.Image:
    """RGB and upright. Refusal with 400 for what is no whole picture, 413 for too many pixels, before any is decoded,
    and 415 for another format."""
    if not content:
        raise Refusal(400, "the picture is empty; send the bytes of an image file")
    if content_format(content) not in FORMATS:
        raise Refusal(415, "the picture is not in a format that is taken here; allowed: JPEG, PNG, WebP, GIF")
    try:
        return open_image(content, max_pixels=max_pixels)
    except TooManyPixelsError as error:
        raise Refusal(413, f"the picture is too large: {error.reason}") from error
    except BadImageError as error:
        raise Refusal(400, f"the picture cannot be read: {error.reason}") from error
    except MemoryError as error:
        raise Refusal(413, "the picture is too large for this machine's memory; send a smaller one") from error
