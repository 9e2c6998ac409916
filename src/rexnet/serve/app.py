"""The server as an ASGI application, with its web page and API documentation, neither of which loads anything from
other hosts."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import NamedTuple, TextIO

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, PackageLoader
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rexnet._version import __version__
from rexnet.serve import image_routes, protocol_routes
from rexnet.serve.config import ServeConfig
from rexnet.serve.http_errors import HTTPError, json_response, quoted
from rexnet.serve.metrics import CONTENT_TYPE, Metrics, Observation
from rexnet.serve.model_registry import ModelRegistry, open_registry, watch_files
from rexnet.serve.request_limits import RequestLimits


def create_app(
    config: ServeConfig,
    *,
    api_key: str | None = None,
    metrics: Metrics | None = None,
    registry: ModelRegistry | None = None,
    log: TextIO | None = None,
) -> FastAPI:
    """Create the application, with the models of `config` or of `registry`. `log` gets a line per request. Raise
    ValueError for a model that cannot be opened."""
    # Silence its warnings about malformed forms, which are answered with an error.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    metrics = metrics or Metrics()
    registry = registry or open_registry(config, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(watch_files(registry, config, metrics)) if config.reload else None
        yield
        if watch is not None:
            watch.cancel()

    app = FastAPI(
        title="rexnet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.config, app.state.registry, app.state.metrics = config, registry, metrics
    for router in (image_routes.router, protocol_routes.router, page_router):
        app.include_router(router)

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    _add_error_handlers(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_middleware(RequestLimits, config=config, api_key=api_key)
    app.add_middleware(Observation, metrics=metrics, log=log)
    return app


class HeadAsGet:
    """ASGI middleware that answers HEAD like GET on every route; the server omits the body."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return
        inner = {**scope, "method": "GET", "asked_method": "HEAD"}
        try:
            await self._app(inner, receive, send)
        finally:
            scope["route"] = inner.get("route")  # read by the metrics


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(HTTPError)
    async def own_error(request: Request, error: HTTPError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = first["loc"][-1] if first["loc"] else "request"
        allowed = image_routes.ALLOWED.get(name, first["msg"].lower())
        return json_response({"error": f"{name} is {quoted(first.get('input'))}; allowed: {allowed}"}, 400)

    @app.exception_handler(HTTPException)
    async def routing_error(request: Request, error: HTTPException) -> Response:
        path, method = quoted(request.url.path), request.scope.get("asked_method", request.method)
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"  # HeadAsGet
        messages = {
            404: f"there is no route {path}; GET /docs lists the routes",
            405: f"the method {quoted(method)} is not allowed at {path}; allowed: {headers.get('Allow')}",
        }
        return json_response({"error": messages.get(error.status_code, str(error.detail))}, error.status_code, headers)

    @app.exception_handler(Exception)
    async def failure(request: Request, error: Exception) -> Response:
        return json_response({"error": "the server failed on this request; see its log"}, 500)


_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "jpg": "image/jpeg"}
_INDEX = "index.html"
_HEADERS = {
    # Allow no script or style in the markup, and no framing by other pages.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Revalidate each time; send only after a change.
    "Cache-Control": "no-cache",
}

page_router = APIRouter(include_in_schema=False)


class PageFile(NamedTuple):
    """A file of the page, ready to send."""

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


@page_router.get("/")
async def page(request: Request) -> Response:
    return _file_response(request, page_files()[_INDEX])


@page_router.get("/page/{name}")
async def page_file(request: Request, name: str) -> Response:
    if name not in page_files():
        raise HTTPError(404, f"the page has no file {quoted(name)}")
    return _file_response(request, page_files()[name])


@page_router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    environment = Environment(loader=PackageLoader("rexnet.serve", "page"), autoescape=True)
    content = environment.get_template("docs.html.jinja").render(paths=request.app.openapi()["paths"])
    return HTMLResponse(content, headers={"Content-Security-Policy": "default-src 'none'; style-src 'self'"})


def _file_response(request: Request, file: PageFile) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
