"""Requests and responses of the Open Inference Protocol, version 2: JSON, with tensors in it or as bytes after it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.responses import Response

from rexnet.serve.http_errors import HTTPError, json_response, quoted
from rexnet.serve.tensors import OutputTensor, TensorSpec, checked_shape, from_bytes, from_json

LENGTH_HEADER = "inference-header-content-length"
_MAX_TENSORS = 16

_PARAMETERS = {"type": ["object", "null"], "additionalProperties": True}
_TENSOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["image", "encoded"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "datatype": {"type": "string", "enum": ["FP32", "UINT8", "BYTES"]},
        "data": {"type": "array", "items": {}},
        "parameters": _PARAMETERS,
    },
    "required": ["name", "shape", "datatype"],
}
_OUTPUT: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
    "required": ["name"],
}
INFERENCE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "minItems": 1, "maxItems": _MAX_TENSORS, "items": _TENSOR},
                        "outputs": {"type": "array", "maxItems": _MAX_TENSORS, "items": _OUTPUT},
                        "parameters": _PARAMETERS,
                    },
                    "required": ["inputs"],
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""OpenAPI: tensors of the protocol, in JSON or as bytes after it."""


@dataclass(frozen=True, kw_only=True)
class RequestedOutput:
    """A requested output and its form."""

    name: str
    binary: bool
    classification: int = 0
    """Number of most probable classes to return as text; 0: all probabilities as numbers."""


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """The inputs of a client and the outputs it requests."""

    id: str | None
    inputs: dict[str, np.ndarray | list[bytes]]
    outputs: tuple[RequestedOutput, ...]
    parameters: dict[str, Any]


def read_request(
    body: bytes, header_length: str | None, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], most: int
) -> InferenceRequest:
    """Read a request of at most `most` items. Raise HTTPError with 400 for a request that the specs do not allow."""
    header, binary = _split(body, header_length)
    parameters = _parameters(header)
    request_id = header.get("id")
    if not (request_id is None or isinstance(request_id, str)):
        raise HTTPError(400, f"the id is {quoted(request_id)}; allowed: a string")
    specs = {spec.name: spec for spec in inputs}
    found: dict[str, np.ndarray | list[bytes]] = {}
    place = 0
    for tensor in _tensors(header, "inputs"):
        spec = _spec(tensor, specs, "input")
        if spec.name in found:
            raise HTTPError(400, f"input {spec.name} is given twice")
        size = _binary_size(tensor, left=len(binary) - place)
        data = None if size is None else binary[place : place + size]
        found[spec.name] = _values(tensor, spec, data, most=most)
        place += size or 0
    if place != len(binary):
        raise HTTPError(400, f"{len(binary) - place:,} bytes after the JSON belong to no input")
    wanted = _requested_outputs(header, parameters, outputs)
    return InferenceRequest(id=request_id, inputs=found, outputs=wanted, parameters=parameters)


def write_answer(
    request: InferenceRequest, tensors: Mapping[str, OutputTensor], *, model: str, version: str
) -> Response:
    """Return the tensors in the order and form of the request."""
    described = []
    binary: list[bytes] = []
    for wanted in request.outputs:
        tensor = tensors[wanted.name]
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if wanted.binary:
            binary.append(tensor.to_bytes())
            entry["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            entry["data"] = tensor.to_json()
        described.append(entry)
    content: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id is not None:
        content["id"] = request.id
    answer = json_response(content)
    if not binary:
        return answer
    headers = {LENGTH_HEADER: str(len(answer.body))}
    return Response(b"".join([bytes(answer.body), *binary]), headers=headers, media_type="application/octet-stream")


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
            raise HTTPError(400, f"{LENGTH_HEADER} is {quoted(header_length)}; allowed: a number of bytes")
        length = int(header_length)
        if length > len(body):
            raise HTTPError(400, f"{LENGTH_HEADER} is {length}; the request has {len(body)} bytes")
    try:
        header = json.loads(body[:length].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        hint = "" if header_length is not None else f"; with binary tensors, give {LENGTH_HEADER}"
        raise HTTPError(400, f"the request is not JSON{hint}") from error
    if not isinstance(header, dict):
        raise HTTPError(400, "the request is not a JSON object with inputs")
    return header, body[length:]


def _parameters(described: dict[str, Any]) -> dict[str, Any]:
    found = described.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise HTTPError(400, f"parameters are {quoted(found)}; allowed: a JSON object")
    if any(str(name).startswith("shared_memory") for name in found):
        raise HTTPError(400, "shared memory is not supported; send the tensors in the request")
    return found


def _tensors(header: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    found = header.get(kind)
    if not (isinstance(found, list) and found and len(found) <= _MAX_TENSORS):
        raise HTTPError(400, f"{kind} are missing; give a list of 1 to {_MAX_TENSORS} tensors")
    for tensor in found:
        if not isinstance(tensor, dict):
            raise HTTPError(400, f"one of the {kind} is {quoted(tensor)}; allowed: JSON objects with a name")
    return found


def _spec(tensor: dict[str, Any], specs: Mapping[str, TensorSpec], kind: str) -> TensorSpec:
    name = tensor.get("name")
    if not isinstance(name, str) or name not in specs:
        raise HTTPError(400, f"there is no {kind} {quoted(name)}; allowed: {', '.join(specs)}")
    return specs[name]


def _binary_size(tensor: dict[str, Any], *, left: int) -> int | None:
    size = _parameters(tensor).get("binary_data_size")
    if size is not None and not (type(size) is int and 0 <= size <= left):
        raise HTTPError(400, f"binary_data_size is {quoted(size)}; {left:,} bytes are left after the JSON")
    return size


def _values(tensor: dict[str, Any], spec: TensorSpec, data: bytes | None, *, most: int) -> np.ndarray | list[bytes]:
    if tensor.get("datatype") != spec.datatype:
        raise HTTPError(400, f"input {spec.name} is {quoted(tensor.get('datatype'))}; allowed: {spec.datatype}")
    shape = checked_shape(tensor.get("shape"), spec, most=most)
    if data is not None:
        if "data" in tensor:
            raise HTTPError(400, f"input {spec.name} has data in the JSON and after it; give one of them")
        return from_bytes(data, spec, shape)
    if "data" not in tensor:
        raise HTTPError(400, f"input {spec.name} has no data, neither in the JSON nor after it")
    return from_json(tensor["data"], spec, shape)


def _requested_outputs(
    header: dict[str, Any], parameters: dict[str, Any], outputs: Sequence[TensorSpec]
) -> tuple[RequestedOutput, ...]:
    all_binary = _flag(parameters, "binary_data_output", default=False)
    if not header.get("outputs"):
        return tuple(RequestedOutput(name=spec.name, binary=all_binary) for spec in outputs)
    specs = {spec.name: spec for spec in outputs}
    found: dict[str, RequestedOutput] = {}
    for tensor in _tensors(header, "outputs"):
        spec, options = _spec(tensor, specs, "output"), _parameters(tensor)
        classification = options.get("classification", 0)
        if not (type(classification) is int and classification >= 0):
            raise HTTPError(400, f"classification is {quoted(classification)}; allowed: a number of classes")
        if classification and spec.name != "probabilities":
            raise HTTPError(400, f"classification is requested of output {spec.name}; allowed: probabilities")
        binary = _flag(options, "binary_data", default=all_binary)
        found[spec.name] = RequestedOutput(name=spec.name, binary=binary, classification=classification)
    return tuple(found.values())


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise HTTPError(400, f"{name} is {quoted(value)}; allowed: true, false")
    return value
