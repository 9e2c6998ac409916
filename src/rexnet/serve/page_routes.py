"""The web page and the description of the routes, neither with anything from another host."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, Request
from jinja2 import Environment, PackageLoader
from starlette.responses import HTMLResponse, Response

from rexnet.serve.http_errors import HTTPError, quoted

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "jpg": "image/jpeg"}
_INDEX = "index.html"
_HEADERS = {
    # No script or style in the markup, and no frame of another page.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Requested each time, sent only when it has changed.
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


class PageFile(NamedTuple):
    """A file of the page, as it is sent."""

    content: bytes
    media_type: str
    etag: str


@cache
def page_files() -> dict[str, PageFile]:
    """Return all files of the page by name; no other file can be requested."""
    found = {}
    for file in files("rexnet.serve").joinpath("page").iterdir():
        media_type = _TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            content = file.read_bytes()
            found[file.name] = PageFile(content, media_type, f'W/"{hashlib.sha256(content).hexdigest()[:16]}"')
    return found


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    return _file_response(request, page_files()[_INDEX])


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def page_file(request: Request, name: str) -> Response:
    if name not in page_files():
        raise HTTPError(404, f"the page has no file {quoted(name)}")
    return _file_response(request, page_files()[name])


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    environment = Environment(loader=PackageLoader("rexnet.serve", "page"), autoescape=True)
    content = environment.get_template("docs.html.jinja").render(paths=request.app.openapi()["paths"])
    return HTMLResponse(content, headers={"Content-Security-Policy": "default-src 'none'; style-src 'self'"})


def _file_response(request: Request, file: PageFile) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
