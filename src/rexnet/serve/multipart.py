"""Images out of a form of a browser: parts in memory, never in a file."""

from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from rexnet.serve.http_errors import HTTPError, shown

_HEADER_BYTES = 4096


@dataclass
class Part:
    """One field of a form."""

    name: str = ""
    file_name: str = ""
    content: bytes = b""


def image_parts(body: bytes, content_type: str, *, most: int) -> list[Part]:
    """The parts named `image`, at least one and at most `most`. HTTPError with 400, 413 or 415 for anything else."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise HTTPError(415, "send a form: Content-Type multipart/form-data with a boundary, and image files in it")
    parts = _parts(body, boundary, most=most)
    others = [part.name for part in parts if part.name != "image"]
    if others:
        raise HTTPError(400, f"the form has a part {shown(others[0])}; allowed: image, as often as there are images")
    if not parts:
        raise HTTPError(400, "the form has no part named image; send at least one image file under that name")
    return parts


def _parts(body: bytes, boundary: bytes, *, most: int) -> list[Part]:
    """RFC 2046, section 5.1.1. The bytes of images are only searched and cut by C code: a parser that looks at them
    one by one would hold up all other requests."""
    # What stands before the first boundary says nothing; neither does what follows the last one.
    _, *pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, most + 2)
    parts = []
    for piece in pieces:
        if piece.startswith(b"--"):
            return parts
        if len(parts) == most:
            raise HTTPError(413, f"the form has more than the {most} images that a request may have")
        parts.append(_part(piece))
    raise HTTPError(400, "the form is cut off: its closing boundary is missing")


def _part(piece: bytes) -> Part:
    """Of what stands between two boundaries: the rest of a line, headers, an empty line, content."""
    end = piece.find(b"\r\n\r\n", 0, _HEADER_BYTES)
    padding, *headers = piece[: max(end, 0)].split(b"\r\n")
    if end < 0 or padding.strip(b" \t"):
        raise HTTPError(400, f"a part of the form has no headers, or more than {_HEADER_BYTES} bytes of them")
    part = Part(content=piece[end + 4 :])
    for header in headers:
        name, colon, value = header.partition(b":")
        if not colon:
            raise HTTPError(400, f"a part of the form has the header {shown(header)}, which has no colon")
        if name.strip().lower() == b"content-disposition":
            _, options = parse_options_header(value)
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            part.file_name = options.get(b"filename", b"").decode("utf-8", "replace")
    return part
