"""Tensors of the Open Inference Protocol, version 2, as JSON and as bytes after it."""

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from rexnet.serve.http_errors import HTTPError, quoted

DTYPES = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, type and shape of an input or output; -1 in a shape stands for any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, kw_only=True)
class OutputTensor:
    """An output; `values` are an array, or a list of bytes for BYTES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: np.ndarray | Sequence[bytes]

    def to_json(self) -> list[Any]:
        if isinstance(self.values, np.ndarray):
            return self.values.ravel().tolist()
        return [value.decode("utf-8", "replace") for value in self.values]

    def to_bytes(self) -> bytes:
        if isinstance(self.values, np.ndarray):
            return np.ascontiguousarray(self.values, DTYPES[self.datatype]).tobytes()
        return b"".join(struct.pack("<I", len(value)) + value for value in self.values)


def checked_shape(shape: Any, spec: TensorSpec, *, most: int) -> tuple[int, ...]:
    """Return the shape of 1 to `most` items. Raise HTTPError with 400 unless `spec` allows it. If `spec` has only the
    batch axis, a trailing 1, as in Triton's model configuration, is allowed and dropped."""
    allowed = f"{list(spec.shape)} with 1 to {most} for the first" if most > 1 else str([1, *spec.shape[1:]])
    whole = isinstance(shape, list) and all(type(side) is int for side in shape)
    sides = shape[:1] if whole and spec.shape == (-1,) and shape[1:] == [1] else shape
    if not whole or len(sides) != len(spec.shape) or not 1 <= sides[0] <= most:
        raise HTTPError(400, f"input {spec.name} has the shape {quoted(shape)}; allowed: {allowed}")
    if any(wanted not in (-1, side) for side, wanted in zip(sides, spec.shape, strict=True)):
        raise HTTPError(400, f"input {spec.name} has the shape {quoted(shape)}; allowed: {allowed}")
    return tuple(sides)


def from_json(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray | list[bytes]:
    """Convert flat or nested lists to an array of that shape, or to the items of BYTES, which are base64 in JSON."""
    if spec.datatype == "BYTES":
        return [_decoded(item, spec) for item in _flat_texts(data, spec, count=shape[0])]
    numbers = _flat_numbers(data, spec, shape)
    if spec.datatype == "UINT8" and not (min(numbers) >= 0 and max(numbers) <= 255):
        extent = f"{quoted(min(numbers))} to {quoted(max(numbers))}"
        raise HTTPError(400, f"the data of input {spec.name} ranges from {extent}; allowed: 0 to 255")
    try:
        with np.errstate(over="ignore"):
            return _finite(np.array(numbers, np.float64).astype(DTYPES[spec.datatype]).reshape(shape), spec)
    except OverflowError as error:
        raise HTTPError(400, f"the data of input {spec.name} has a number that is too large") from error


def from_bytes(data: bytes, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray | list[bytes]:
    """Convert little-endian numbers to an array of that shape, or to the items of BYTES, each preceded by its length in
    4 bytes."""
    if spec.datatype == "BYTES":
        return _split_items(data, spec, count=shape[0])
    wanted = DTYPES[spec.datatype]
    size = int(np.prod(shape)) * wanted.itemsize
    if len(data) != size:
        raise HTTPError(
            400, f"input {spec.name} has {len(data):,} bytes of data; its shape {list(shape)} takes {size:,}"
        )
    return _finite(np.frombuffer(data, wanted).reshape(shape), spec)


def _finite(values: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise HTTPError(400, f"the data of input {spec.name} has values that are not finite (nan or inf)")
    return values


def _flat_numbers(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> list[Any]:
    """Return the numbers after a check: a single string among them would make numpy convert all to strings of that
    length."""
    count = prod(shape)
    values = data if isinstance(data, list) else []
    if not (len(values) == count and all(type(value) in (int, float) for value in values)):
        values = [data]
        for side in shape:
            if not all(isinstance(row, list) and len(row) == side for row in values):
                raise HTTPError(
                    400, f"the data of input {spec.name} is not {count:,} numbers, flat or nested as {list(shape)}"
                )
            values = list(chain.from_iterable(values))
    if not set(map(type, values)) <= ({int} if spec.datatype == "UINT8" else {int, float}):
        raise HTTPError(400, f"the data of input {spec.name} has values that are not {spec.datatype} numbers")
    return values


def _flat_texts(data: Any, spec: TensorSpec, *, count: int) -> list[str]:
    rows = data if isinstance(data, list) else []
    items = [one for row in rows for one in (row if isinstance(row, list) else [row])]
    if len(items) != count or not all(isinstance(item, str) for item in items):
        raise HTTPError(400, f"the data of input {spec.name} is not {count} strings, as its shape requires")
    return items


def _decoded(item: str, spec: TensorSpec) -> bytes:
    try:
        return base64.b64decode(item, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPError(400, f"the data of input {spec.name} is not base64, the form of BYTES in JSON") from error


def _split_items(data: bytes, spec: TensorSpec, *, count: int) -> list[bytes]:
    items: list[bytes] = []
    place = 0
    while place + 4 <= len(data) and len(items) < count:
        (length,) = struct.unpack_from("<I", data, place)
        items.append(data[place + 4 : place + 4 + length])
        place += 4 + length
    if place != len(data) or len(items) != count:
        raise HTTPError(
            400, f"the data of input {spec.name} is not {count} items, each preceded by its length in 4 bytes"
        )
    return items
