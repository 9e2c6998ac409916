"""Pictures out of a form of a browser: parts in memory, never in a file."""

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from rexnet.serve.refusals import Refusal, shown

_MOST_HEADERS = 8
_HEADER_BYTES = 4096


@dataclass
class Part:
    """One field of a form."""

    name: str = ""
    file_name: str = ""
    content: bytes = b""


def image_parts(body: bytes, content_type: str, *, most: int) -> list[Part]:
    """The parts named `image`, at least one and at most `most`. Refusal with 400, 413 or 415 for anything else."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise Refusal(415, "send a form: Content-Type multipart/form-data with a boundary, and image files in it")
    parts = _parts(body, boundary, most=most)
    others = [part.name for part in parts if part.name != "image"]
    if others:
        raise Refusal(400, f"the form has a part {shown(others[0])}; allowed: image, as often as there are pictures")
    if not parts:
        raise Refusal(400, "the form has no part named image; send at least one image file under that name")
    return parts


def _parts(body: bytes, boundary: bytes, *, most: int) -> list[Part]:
    reading = _Reading(most)
    callbacks = ("part_begin", "header_begin", "header_field", "header_value", "header_end", "part_data", "part_end")
    parser = MultipartParser(
        boundary,
        {f"on_{name}": getattr(reading, name) for name in (*callbacks, "end")},  # type: ignore[arg-type]
        max_header_count=_MOST_HEADERS,
        max_header_size=_HEADER_BYTES,
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refusal(400, f"the form cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not reading.ended:
        raise Refusal(400, "the form is cut off: its closing boundary is missing")
    return reading.parts


class _Reading:
    """What the parser calls; its data is a slice of the body."""

    def __init__(self, most: int):
        self.parts: list[Part] = []
        self.ended = False
        self._most = most
        self._name = self._value = b""
        self._pieces: list[bytes] = []

    def part_begin(self) -> None:
        if len(self.parts) >= self._most:
            raise Refusal(413, f"the form has more than the {self._most} pictures that a request may have")
        self.parts.append(Part())
        self._pieces = []

    def header_begin(self) -> None:
        self._name = self._value = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            part = self.parts[-1]
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            part.file_name = options.get(b"filename", b"").decode("utf-8", "replace")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def part_end(self) -> None:
        self.parts[-1].content = b"".join(self._pieces)

    def end(self) -> None:
        self.ended = True
