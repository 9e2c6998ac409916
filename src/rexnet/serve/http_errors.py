"""HTTP errors: a status and one sentence, in JSON."""

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

_MEANINGS = {
    200: "the answer",
    400: "the request cannot be understood",
    401: "the API key is missing or wrong",
    404: "there is no such model or version",
    408: "the request took too long to arrive",
    413: "the request, an image or the number of images is too large",
    415: "the content is not of an accepted type",
    429: "too many requests are waiting; retry after the seconds in Retry-After",
    503: "the answer took too long; retry after the seconds in Retry-After",
}
_SCHEMA = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


class HTTPError(Exception):
    """An HTTP error that is sent as the answer to a request."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the error as a JSON response."""
        return json_response({"error": self.message}, self.status, self.headers)


def busy(message: str, *, status: int = 429) -> HTTPError:
    """Return an error that asks the client to retry in a second."""
    return HTTPError(status, message, {"Retry-After": "1"})


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON in ASCII, since text echoed to a client may not be valid UTF-8."""
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(body, status, headers=dict(headers or {}), media_type="application/json")


def quoted(value: object) -> str:
    """Return a client's value, quoted and short enough for a message, in time independent of its size."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = 80
    short.maxlevel = 2
    text = short.repr(value).encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= 80 else f"{text[:77]}..."


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of a route; every route may also return the errors of the request limits."""
    return {
        status: {
            "description": _MEANINGS[status],
            "content": {"application/json": {"schema": {} if status == 200 else _SCHEMA}},
        }
        for status in sorted({*statuses, 400, 401, 408, 413, 415, 429, 503})
    }
