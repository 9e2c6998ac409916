"""The web page: its files, by a fixed table of names."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from rexnet.serve.http_errors import HTTPError, shown

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_INDEX = "index.html"
_HEADERS = {
    # Nothing from elsewhere, no script or style in the markup, and nobody's frame.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked for each time, sent only when it has changed.
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


class PageFile(NamedTuple):
    """One file of the page, as it is sent."""

    content: bytes
    media_type: str
    tag: str
    """Changes with the content; a browser that has this one already gets no other."""


@cache
def page_files() -> dict[str, PageFile]:
    """All files of the page by name, read once."""
    found = {}
    for file in files("rexnet.serve").joinpath("page").iterdir():
        kind = _KINDS.get(file.name.rpartition(".")[2])
        if kind is not None:
            content = file.read_bytes()
            found[file.name] = PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return found


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    return _reply(request, page_files()[_INDEX])


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def page_file(request: Request, name: str) -> Response:
    if name not in page_files():
        raise HTTPError(404, f"the page has no file {shown(name)}")
    return _reply(request, page_files()[name])


def _reply(request: Request, file: PageFile) -> Response:
    headers = {**_HEADERS, "ETag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
