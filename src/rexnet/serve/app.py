"""The server as an ASGI application."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rexnet._version import __version__
from rexnet.serve import docs_page, explain_routes, page_routes, predict_routes, protocol_routes
from rexnet.serve.config import ServeConfig
from rexnet.serve.http_errors import HTTPError, refused, reply, shown
from rexnet.serve.metrics import CONTENT_TYPE, Metrics, Observation
from rexnet.serve.model_registry import ModelRegistry, open_registry
from rexnet.serve.reloading import keep_fresh
from rexnet.serve.request_limits import RequestLimits

logger = logging.getLogger(__name__)


def create_app(
    config: ServeConfig,
    *,
    api_key: str | None = None,
    metrics: Metrics | None = None,
    registry: ModelRegistry | None = None,
    log: TextIO | None = None,
) -> FastAPI:
    """With the models of `config`, or those of `registry`. `log` gets a line a request. ValueError, one sentence, for a
    model that cannot be opened."""
    metrics = metrics or Metrics()
    registry = registry or open_registry(config, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        fresh = asyncio.create_task(keep_fresh(registry, config, metrics)) if config.reload else None
        yield
        if fresh is not None:
            fresh.cancel()

    app = FastAPI(
        title="rexnet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.config, app.state.registry, app.state.metrics = config, registry, metrics
    for routes in (predict_routes, explain_routes, protocol_routes, docs_page, page_routes):
        app.include_router(routes.router)

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    _add_http_errors(app)
    app.add_middleware(RequestLimits, config=config, api_key=api_key)
    app.add_middleware(Observation, metrics=metrics, log=log)
    return app


def _add_http_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPError)
    async def refuse(request: Request, error: HTTPError) -> Response:
        return refused(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = first["loc"][-1] if first["loc"] else "request"
        return reply({"error": f"{name} is {shown(first.get('input'))}; {first['msg'].lower()}"}, 400)

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        path = shown(request.url.path)
        sentences = {404: f"there is nothing at {path}; GET /docs lists what there is"}
        sentences[405] = f"{shown(request.method)} is not allowed at {path}; GET /docs lists what is"
        return reply({"error": sentences.get(error.status_code, str(error.detail))}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return reply({"error": "the server failed at this request; its log says how"}, 500)
