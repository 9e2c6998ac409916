"""Routes that take images in a form, and the list of models."""

import asyncio
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from torch import Tensor

from rexnet.deploy.predict import PredictConfig
from rexnet.serve.explain import Explainer
from rexnet.serve.http_errors import HTTPError, answers, json_response, quoted
from rexnet.serve.images import IMAGE_FORM, Upload, open_upload, read_uploads
from rexnet.serve.model_registry import Answer, ModelRegistry
from rexnet.serve.opened import OpenModel

router = APIRouter(tags=["images"])

ModelName = Annotated[str | None, Query(description="name of the model; the first one by default")]
ClassName = Annotated[
    str | None, Query(alias="class", description="name of the class; the most probable one by default")
]

ALLOWED = {"top_k": "a whole number, 1 or more", "min_score": "a number from 0 to 1"}
"""Allowed values of the options, for error messages."""


def check_options(request: Request) -> None:
    """Raise HTTPError for an option that the route does not have, such as a mistyped one, or that is given twice."""
    allowed = [option.alias for option in request.scope["route"].dependant.query_params]
    if unknown := sorted(set(request.query_params) - set(allowed)):
        raise HTTPError(400, f"there is no option {quoted(unknown[0])}; allowed: {', '.join(allowed)}")
    for option in allowed:
        if len(values := request.query_params.getlist(option)) > 1:
            raise HTTPError(400, f"{option} is given {len(values)} times; allowed: once")


@router.get("/models", responses=answers(200))
async def models(request: Request) -> Response:
    """List the models, with their classes."""
    registry: ModelRegistry = request.app.state.registry
    listed = [{"name": name, **model.current.to_dict()} for name, model in registry.models.items()]
    return json_response({"models": listed})


@router.post("/predict", dependencies=[Depends(check_options)], openapi_extra=IMAGE_FORM, responses=answers(200, 404))
async def predict(
    request: Request,
    model: ModelName = None,
    top_k: Annotated[
        int, Query(ge=1, description="classifiers only: number of classes to return for each image")
    ] = PredictConfig.top_k,
    min_score: Annotated[
        float | None,
        Query(ge=0, le=1, description="detectors only: minimum score of an object; the model's own by default"),
    ] = None,
) -> Response:
    """Classify images or detect objects: classes with probabilities, or objects with boxes and masks."""
    registry: ModelRegistry = request.app.state.registry
    found = registry[model]
    opened = found.current
    allowed, other = ("top_k", "min_score") if opened.kind == "classifier" else ("min_score", "top_k")
    if other in request.query_params:
        raise HTTPError(400, f"the model {found.name} is a {opened.kind}, which has no {other}; allowed: {allowed}")
    uploads = await _uploads(request, most=request.app.state.config.max_images)

    async def result_of(upload: Upload) -> dict[str, Any] | HTTPError:
        async with opened.semaphore:
            try:
                answer = await registry.answer(opened, upload.content)
            except HTTPError as error:
                return error
            if opened.kind == "classifier":
                predicted = _classes(opened, answer, top_k)
            else:
                least = opened.score_threshold if min_score is None else min_score
                predicted = {"objects": await registry.in_thread(objects_to_json, answer, least)}
        size = {"width": answer.width, "height": answer.height}
        times = {"decode": answer.decode_ms, "wait": answer.wait_ms, "compute": answer.compute_ms}
        return {**size, **predicted, "milliseconds": {name: round(ms, 3) for name, ms in times.items()}}

    with opened.metrics.request(), found.accepting(len(uploads)):
        results = await asyncio.gather(*map(result_of, uploads))
        errors = [result for result in results if isinstance(result, HTTPError)]
        if len(errors) == len(results):
            raise errors[0]
    listed = [
        {"image": upload.name, **({"error": result.message} if isinstance(result, HTTPError) else result)}
        for upload, result in zip(uploads, results, strict=True)
    ]
    return json_response({"model": found.name, "kind": opened.kind, "version": opened.version, "results": listed})


@router.post("/explain", dependencies=[Depends(check_options)], openapi_extra=IMAGE_FORM, responses=answers(200, 404))
async def explain(request: Request, model: ModelName = None, name: ClassName = None) -> Response:
    """Explain a prediction: a heat map of where a classifier sees a class, over the region that the network saw."""
    registry: ModelRegistry = request.app.state.registry
    found = registry[model]
    opened = found.current
    if opened.explainer is None:
        raise HTTPError(
            400,
            f"the model {found.name} cannot be explained; allowed: classifiers from checkpoints, not exported files",
        )
    (upload,) = await _uploads(request, most=1)
    max_pixels = request.app.state.config.max_pixels
    with found.accepting(1):
        explained = await registry.in_thread(_explain, opened.explainer, upload.content, name, max_pixels=max_pixels)
    return json_response({"model": found.name, "version": opened.version, **explained})


async def _uploads(request: Request, *, most: int) -> list[Upload]:
    return await read_uploads(await request.body(), request.headers.get("content-type", ""), most=most)


def _classes(opened: OpenModel, answer: Answer, top_k: int) -> dict[str, Any]:
    probabilities: Tensor = answer.result
    best = probabilities.topk(min(top_k, len(opened.classes)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {"predictions": [{"class": opened.classes[index], "probability": round(p, 6)} for index, p in pairs]}


def _explain(explainer: Explainer, content: bytes, name: str | None, *, max_pixels: int) -> dict[str, Any]:
    image = open_upload(content, max_pixels=max_pixels)
    started = perf_counter()
    try:
        explanation = explainer(image, name)
    except ValueError as error:
        raise HTTPError(400, str(error)) from error
    return {**explanation.to_dict(), "milliseconds": {"compute": round((perf_counter() - started) * 1e3, 3)}}


def upright_boxes(answer: Answer) -> Tensor:
    """Return the boxes (N, 4) as left, top, right, bottom; the detector may have seen a smaller copy of the image."""
    seen = answer.result.source_image
    across, down = answer.width / seen.width, answer.height / seen.height
    boxes: Tensor = answer.result.output["boxes"]
    return boxes * boxes.new_tensor([across, down, across, down])


def objects_to_json(answer: Answer, min_score: float) -> list[dict[str, Any]]:
    """Return the objects of /predict, the highest score first."""
    found = []
    output, boxes = answer.result.output, upright_boxes(answer).tolist()
    for index, (name, score) in enumerate(zip(answer.result.names, output["scores"].tolist(), strict=True)):
        if score < min_score:
            continue
        entry = {"class": name, "score": round(score, 6), "box": [round(value, 2) for value in boxes[index]]}
        if "masks" in output:
            entry["mask"] = uncompressed_rle(output["masks"][index, 0], width=answer.width, height=answer.height)
        found.append(entry)
    return found


def uncompressed_rle(mask: Tensor, *, width: int, height: int) -> dict[str, Any]:
    """Return the mask of the whole image as COCO's uncompressed RLE, column by column with background first. `mask` (h,
    w), of the image or a smaller copy, is thresholded at one half; each pixel of the image takes the value of the
    nearest one in `mask`. The full-size mask is never allocated.
    """
    inside = mask.numpy() > 0.5
    rows, columns = (_nearest(*sides) for sides in zip((height, width), inside.shape, strict=True))
    line = inside[:, columns].ravel(order="F")
    changes = np.flatnonzero(line[1:] != line[:-1]) + 1
    # First row of the whole image for each row of the mask.
    begins = np.searchsorted(rows, np.arange(inside.shape[0]))
    places = changes // inside.shape[0] * height + begins[changes % inside.shape[0]]
    ends = np.concatenate([[0] if line[0] else [], places, [width * height]]).astype(np.int64)
    return {"size": [height, width], "counts": np.diff(ends, prepend=0).tolist()}


def _nearest(whole: int, part: int) -> np.ndarray:
    """Return, for each of `whole` cells, the index of the cell among `part` cells that contains its centre."""
    return (2 * np.arange(whole) + 1) * part // (2 * whole)
