"""The Open Inference Protocol, version 2, with the binary tensor and classification extensions of Triton."""

import asyncio
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter, Request, Response
from torch import Tensor

from rexnet._version import __version__
from rexnet.serve.http_errors import HTTPError, answers, json_response, quoted
from rexnet.serve.image_routes import upright_boxes
from rexnet.serve.inference import (
    INFERENCE,
    LENGTH_HEADER,
    InferenceRequest,
    RequestedOutput,
    read_request,
    write_answer,
)
from rexnet.serve.model_registry import Answer, Model, ModelRegistry
from rexnet.serve.opened import OpenModel
from rexnet.serve.tensors import OutputTensor, TensorSpec

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])

_EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")


@router.get("", responses=answers(200))
async def server() -> Response:
    """Describe the server: name, version and extensions."""
    return json_response({"name": "rexnet", "version": __version__, "extensions": list(_EXTENSIONS)})


@router.get("/health/live", responses=answers(200))
async def live() -> Response:
    """Report that the server is alive."""
    return json_response({"live": True})


@router.get("/health/ready", responses=answers(200))
async def ready() -> Response:
    """Report that all models are loaded, which is the case before the server listens."""
    return json_response({"ready": True})


@router.post("/repository/index", responses=answers(200))
async def repository_index(request: Request) -> Response:
    """List the models and their versions."""
    models: ModelRegistry = request.app.state.registry
    return json_response(
        [
            {"name": name, "version": model.current.version, "state": "READY", "reason": ""}
            for name, model in models.models.items()
        ]
    )


@router.get("/models/stats", responses=answers(200))
async def all_statistics(request: Request) -> Response:
    """Return the statistics of all models."""
    models: ModelRegistry = request.app.state.registry
    return _statistics(request, *(model.current for model in models.models.values()))


@router.get("/models/{model}", responses=answers(200, 404))
@router.get("/models/{model}/versions/{version}", responses=answers(200, 404))
async def metadata(request: Request, model: str, version: str | None = None) -> Response:
    """Describe the inputs and outputs of a model."""
    found, opened = _requested_model(request, model, version)
    return json_response(
        {
            "name": found.name,
            "versions": [opened.version],
            "platform": f"rexnet_{opened.backend}",
            "inputs": [spec.to_dict() for spec in input_specs(opened)],
            "outputs": [spec.to_dict() for spec in output_specs(opened)],
            **({} if opened.score_threshold is None else {"parameters": {"min_score": opened.score_threshold}}),
        }
    )


@router.get("/models/{model}/config", responses=answers(200, 404))
@router.get("/models/{model}/versions/{version}/config", responses=answers(200, 404))
async def configuration(request: Request, model: str, version: str | None = None) -> Response:
    """Describe a model as Triton's model configuration, whose shapes have no batch axis."""
    found, opened = _requested_model(request, model, version)
    batched = opened.kind == "classifier"

    def described(spec: TensorSpec) -> dict[str, Any]:
        dims = list(spec.shape[1:] if batched else spec.shape) or [1]
        return {"name": spec.name, "data_type": f"TYPE_{spec.datatype.replace('BYTES', 'STRING')}", "dims": dims}

    return json_response(
        {
            "name": found.name,
            "platform": f"rexnet_{opened.backend}",
            "max_batch_size": request.app.state.config.max_images if batched else 0,
            "input": [{**described(spec), "optional": True} for spec in input_specs(opened)],
            "output": [described(spec) for spec in output_specs(opened)],
        }
    )


@router.get("/models/{model}/ready", responses=answers(200, 404))
@router.get("/models/{model}/versions/{version}/ready", responses=answers(200, 404))
async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    """Report that a model is ready."""
    found, _ = _requested_model(request, model, version)
    return json_response({"name": found.name, "ready": True})


@router.get("/models/{model}/stats", responses=answers(200, 404))
@router.get("/models/{model}/versions/{version}/stats", responses=answers(200, 404))
async def statistics(request: Request, model: str, version: str | None = None) -> Response:
    """Return counts and times of the requests to a model since its file was opened."""
    _, opened = _requested_model(request, model, version)
    return _statistics(request, opened)


def _statistics(request: Request, *opened: OpenModel) -> Response:
    samples = request.app.state.metrics.samples()  # once, because it reads the files of all workers
    return json_response({"model_stats": [each.metrics.statistics(samples) for each in opened]})


@router.post("/models/{model}/infer", openapi_extra=INFERENCE, responses=answers(200, 404))
@router.post("/models/{model}/versions/{version}/infer", openapi_extra=INFERENCE, responses=answers(200, 404))
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """Predict from tensors, in JSON or as bytes after it."""
    found, opened = _requested_model(request, model, version)
    registry: ModelRegistry = request.app.state.registry
    # Parse in a thread: JSON numbers are millions of objects.
    inference = await registry.in_thread(
        read_request,
        await request.body(),
        request.headers.get(LENGTH_HEADER),
        inputs=input_specs(opened),
        outputs=output_specs(opened),
        most=request.app.state.config.max_images if opened.kind == "classifier" else 1,
    )
    if len(inference.inputs) != 1:
        raise HTTPError(400, f"the inputs are {' and '.join(inference.inputs)}; allowed: one of them")
    (items,) = inference.inputs.values()
    with opened.metrics.request(), found.accepting(len(items)):
        if opened.kind == "classifier":
            tensors = _probability_tensors(opened, inference, torch.stack(await _results(registry, opened, items)))
        else:
            async with opened.semaphore:
                tensors = _object_tensors(await registry.answer(opened, items[0]), _min_score(opened, inference))
    return write_answer(inference, tensors, model=found.name, version=opened.version)


def input_specs(opened: OpenModel) -> tuple[TensorSpec, ...]:
    """Return the possible inputs, of which a request has exactly one: preprocessed images, or the bytes of image
    files."""
    encoded = TensorSpec(name="encoded", datatype="BYTES", shape=(-1,) if opened.kind == "classifier" else (1,))
    if opened.image_shape is None:
        return (encoded,)
    datatype = "UINT8" if opened.image_shape[-1] == 3 else "FP32"
    return (TensorSpec(name="image", datatype=datatype, shape=(-1, *opened.image_shape)), encoded)


def output_specs(opened: OpenModel) -> tuple[TensorSpec, ...]:
    """Return the outputs of the model."""
    if opened.kind == "classifier":
        return (TensorSpec(name="probabilities", datatype="FP32", shape=(-1, len(opened.classes))),)
    return (
        TensorSpec(name="boxes", datatype="FP32", shape=(-1, 4)),
        TensorSpec(name="scores", datatype="FP32", shape=(-1,)),
        TensorSpec(name="labels", datatype="BYTES", shape=(-1,)),
    )


def _requested_model(request: Request, name: str, version: str | None) -> tuple[Model, OpenModel]:
    found = request.app.state.registry[name]
    opened = found.current
    if version not in (None, opened.version):
        raise HTTPError(404, f"{found.name} has no version {quoted(version)}; allowed: {opened.version}, or none")
    return found, opened


async def _results(registry: ModelRegistry, opened: OpenModel, items: np.ndarray | list[bytes]) -> list[Tensor]:
    if isinstance(items, list):
        return [answer.result for answer in await _all(registry.answer(opened, content) for content in items)]
    tensors: list[Tensor] = [torch.from_numpy(item.copy()) for item in items]
    try:
        return [batched.result for batched in await _all(map(opened.batcher, tensors))]
    except ValueError as error:
        # The numbers sent are the cause: the network was checked on an image when it was opened.
        raise HTTPError(400, f"the network failed on the values of this request: {error}") from error


async def _all(calls: Any) -> list[Any]:
    """Return the results in order; raise an error only once all have ended, so that every pending image is counted."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _probability_tensors(
    opened: OpenModel, inference: InferenceRequest, probabilities: Tensor
) -> dict[str, OutputTensor]:
    return {wanted.name: _probabilities(opened, wanted, probabilities) for wanted in inference.outputs}


def _probabilities(opened: OpenModel, wanted: RequestedOutput, probabilities: Tensor) -> OutputTensor:
    if not wanted.classification:
        shape = tuple(probabilities.shape)
        return OutputTensor(name=wanted.name, datatype="FP32", shape=shape, values=probabilities.numpy())
    best = probabilities.topk(min(wanted.classification, len(opened.classes)), dim=1)
    texts = [
        f"{value:f}:{index}:{opened.classes[index]}".encode()
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        for value, index in zip(values, indices, strict=True)
    ]
    return OutputTensor(name=wanted.name, datatype="BYTES", shape=tuple(best.values.shape), values=texts)


def _min_score(opened: OpenModel, inference: InferenceRequest) -> float:
    value = inference.parameters.get("min_score", opened.score_threshold)
    if not (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1):
        raise HTTPError(400, f"min_score is {quoted(value)}; allowed: 0 to 1")
    return value


def _object_tensors(answer: Answer, min_score: float) -> dict[str, OutputTensor]:
    scores = answer.result.output["scores"]
    kept = scores >= min_score
    boxes, scores = upright_boxes(answer)[kept].numpy(), scores[kept].numpy()
    names = [name.encode() for name, keep in zip(answer.result.names, kept.tolist(), strict=True) if keep]
    count = len(names)
    tensors = (
        OutputTensor(name="boxes", datatype="FP32", shape=(count, 4), values=boxes),
        OutputTensor(name="scores", datatype="FP32", shape=(count,), values=scores),
        OutputTensor(name="labels", datatype="BYTES", shape=(count,), values=names),
    )
    return {tensor.name: tensor for tensor in tensors}
