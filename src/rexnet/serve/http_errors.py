"""Answers other than the one asked for: a status and one sentence."""

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


class HTTPError(Exception):
    """What a client did that cannot be done, or why not now."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})


def busy(sentence: str, *, status: int = 429) -> HTTPError:
    """That may be asked again in a second."""
    return HTTPError(status, sentence, {"Retry-After": "1"})


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: whatever text a client sent and gets back, UTF-8 might not have it."""
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(body, status, headers=dict(headers or {}), media_type="application/json")


def refused(error: HTTPError) -> Response:
    return reply({"error": error.sentence}, error.status, error.headers)


def shown(text: object) -> str:
    """What a client sent, short enough and quoted for a sentence, in a time that does not depend on its size."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = 80
    short.maxlevel = 2
    quoted = short.repr(text).encode("ascii", "backslashreplace").decode("ascii")
    return quoted if len(quoted) <= 80 else f"{quoted[:77]}..."
