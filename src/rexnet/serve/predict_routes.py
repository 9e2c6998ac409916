"""Images by a form, and what the models are."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from torch import Tensor

from rexnet.deploy.predict import PredictConfig
from rexnet.serve.api_schema import IMAGE_FORM, answers
from rexnet.serve.http_errors import HTTPError, reply, shown
from rexnet.serve.model_registry import Answer, ModelRegistry
from rexnet.serve.multipart import Part, image_parts
from rexnet.serve.objects import MIN_SCORE, described_objects
from rexnet.serve.opened import OpenModel

router = APIRouter(tags=["pictures"])

ModelName = Annotated[str | None, Query(description="name of the model; the first one if not given")]


def check_options(request: Request) -> None:
    """HTTPError for an option that the route does not have, such as a mistyped one."""
    allowed = [option.alias for option in request.scope["route"].dependant.query_params]
    if unknown := sorted(set(request.query_params) - set(allowed)):
        raise HTTPError(400, f"there is no option {shown(unknown[0])}; allowed: {', '.join(allowed)}")


@router.get("/models", responses=answers(200))
async def models(request: Request) -> Response:
    """The models, with their classes."""
    registry: ModelRegistry = request.app.state.registry
    return reply({"models": [{"name": name, **model.current.facts()} for name, model in registry.models.items()]})


@router.post(
    "/predict",
    dependencies=[Depends(check_options)],
    openapi_extra=IMAGE_FORM,
    responses=answers(200, 400, 404, 413, 415, 429, 503),
)
async def predict(
    request: Request,
    model: ModelName = None,
    top_k: Annotated[int, Query(ge=1, description="classes to name for each image")] = PredictConfig.top_k,
    min_score: Annotated[float, Query(ge=0, le=1, description="of a detector: least score of an object")] = MIN_SCORE,
) -> Response:
    """Classify images or find objects: classes with probabilities, or objects with boxes and masks."""
    registry: ModelRegistry = request.app.state.registry
    found = registry[model]
    opened = found.current
    body, kind = await request.body(), request.headers.get("content-type", "")
    parts = image_parts(body, kind, most=request.app.state.config.max_images)

    async def of_part(part: Part) -> dict[str, Any] | HTTPError:
        async with opened.semaphore:
            try:
                answer = await registry.answer(opened, part.content)
            except HTTPError as error:
                return error
            if opened.kind == "classifier":
                said = _classes(opened, answer, top_k)
            else:
                said = {"objects": await registry.in_thread(described_objects, answer, min_score)}
        size = {"width": answer.width, "height": answer.height}
        times = {"decode": answer.decode_ms, "wait": answer.wait_ms, "compute": answer.compute_ms}
        return {**size, **said, "milliseconds": {name: round(ms, 3) for name, ms in times.items()}}

    with found.accepting(len(parts)):
        results = await asyncio.gather(*map(of_part, parts))
    bad = [result for result in results if isinstance(result, HTTPError)]
    if len(bad) == len(results):
        raise bad[0]
    listed = [
        {"image": part.file_name, **({"error": result.sentence} if isinstance(result, HTTPError) else result)}
        for part, result in zip(parts, results, strict=True)
    ]
    return reply({"model": found.name, "kind": opened.kind, "version": opened.version, "results": listed})


def _classes(opened: OpenModel, answer: Answer, top_k: int) -> dict[str, Any]:
    probabilities: Tensor = answer.result
    best = probabilities.topk(min(top_k, len(opened.classes)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {"predictions": [{"class": opened.classes[index], "probability": round(p, 6)} for index, p in pairs]}
