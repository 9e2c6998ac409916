"""The server as an ASGI application."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response

from rexnet._version import __version__
from rexnet.serve import image_routes, page_routes, protocol_routes
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
    """Create the application, with the models of `config` or of `registry`. `log` gets a line per request. ValueError
    for a model that cannot be opened."""
    # It warns of each malformed form, which is answered with an error.
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
    for routes in (image_routes, protocol_routes, page_routes):
        app.include_router(routes.router)

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    _add_error_handlers(app)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_middleware(RequestLimits, config=config, api_key=api_key)
    app.add_middleware(Observation, metrics=metrics, log=log)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(HTTPError)
    async def own_error(request: Request, error: HTTPError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = first["loc"][-1] if first["loc"] else "request"
        return json_response({"error": f"{name} is {quoted(first.get('input'))}; {first['msg'].lower()}"}, 400)

    @app.exception_handler(HTTPException)
    async def routing_error(request: Request, error: HTTPException) -> Response:
        path = quoted(request.url.path)
        messages = {404: f"there is no route {path}; GET /docs lists the routes"}
        messages[405] = f"{quoted(request.method)} is not allowed at {path}; GET /docs lists the methods"
        return json_response(
            {"error": messages.get(error.status_code, str(error.detail))}, error.status_code, error.headers
        )

    @app.exception_handler(Exception)
    async def failure(request: Request, error: Exception) -> Response:
        return json_response({"error": "the server failed at this request; see its log"}, 500)
