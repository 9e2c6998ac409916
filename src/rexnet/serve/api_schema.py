"""The parts of the OpenAPI document beyond the signatures of the routes."""

from typing import Any

_MEANINGS = {
    200: "the answer",
    400: "the request cannot be understood",
    401: "the API key is missing or wrong",
    404: "there is no such model or version",
    408: "the request took too long to arrive",
    413: "the request, an image or the number of images is too large",
    415: "the content is not of a kind that is taken",
    429: "too much is waiting; ask again after Retry-After",
    503: "the answer took too long; ask again after Retry-After",
}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route; every one may meet the HTTP errors of the request limits."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, 400, 401, 408, 413, 415, 429, 503}):
        schema = {} if status == 200 else _ERROR
        content = {"application/json": {"schema": schema}}
        found[status] = {"description": _MEANINGS[status], "content": content}
    return found


IMAGE_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                    },
                    "required": ["image"],
                }
            }
        },
    }
}
"""Image files, all under the name `image`."""

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
                        "inputs": {"type": "array", "minItems": 1, "maxItems": 16, "items": _TENSOR},
                        "outputs": {"type": "array", "maxItems": 16, "items": _OUTPUT},
                        "parameters": _PARAMETERS,
                    },
                    "required": ["inputs"],
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""Tensors of the protocol, in JSON or as bytes behind it."""
