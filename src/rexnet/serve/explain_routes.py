"""Why: Grad-CAM of an image that a form brings."""

from time import perf_counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from rexnet.serve.api_schema import IMAGE_FORM, answers
from rexnet.serve.explain import Explainer
from rexnet.serve.http_errors import HTTPError, reply
from rexnet.serve.images import open_sent
from rexnet.serve.model_registry import ModelRegistry
from rexnet.serve.multipart import image_parts
from rexnet.serve.predict_routes import ModelName, check_options

router = APIRouter(tags=["pictures"])

ClassName = Annotated[
    str | None, Query(alias="class", description="name of the class; the most probable one if not given")
]


@router.post(
    "/explain",
    dependencies=[Depends(check_options)],
    openapi_extra=IMAGE_FORM,
    responses=answers(200, 400, 404, 413, 415, 429, 503),
)
async def explain(request: Request, model: ModelName = None, name: ClassName = None) -> Response:
    """Where in an image a classifier sees a class, as a heat map over the region that the network saw."""
    registry: ModelRegistry = request.app.state.registry
    config = request.app.state.config
    found = registry[model]
    opened = found.current
    explainer = opened.explainer
    if explainer is None:
        raise HTTPError(
            400, f"{found.name} cannot be explained; allowed: classifiers out of checkpoints, no exported files"
        )
    [part] = image_parts(await request.body(), request.headers.get("content-type", ""), most=1)
    with found.accepting(1):
        said = await registry.in_thread(_explained, explainer, part.content, name, config.max_pixels)
    return reply({"model": found.name, "version": opened.version, **said})


def _explained(explainer: Explainer, content: bytes, name: str | None, max_pixels: int) -> dict[str, Any]:
    image = open_sent(content, max_pixels=max_pixels)
    started = perf_counter()
    try:
        explanation = explainer(image, name)
    except ValueError as error:
        raise HTTPError(400, str(error)) from error
    return {**explanation.to_dict(), "milliseconds": {"compute": round((perf_counter() - started) * 1e3, 3)}}
