"""Outlines of objects in COCO's formats, and their masks."""

import math
from collections.abc import Iterable
from operator import mul
from typing import Any, final

import numpy as np

from rexnet.errors import MissingPackageError

_NONE, _POLYGONS, _RLE = 0, 1, 2
_NUMBERS = {int, float}


class BadSegmentError(ValueError):
    """An outline from which no mask can be made; the text is the reason."""


@final
class Segments:
    """Outlines by position, in flat arrays. Coordinates are float64, because COCO rounds them to decide on border
    pixels, and float32 would occasionally round the other way."""

    def __init__(self, segments: Iterable[Any]):
        """Take None, a list of polygons or an RLE dict for each object, as `check_segment` returns them."""
        kinds, first, lengths = [], [0], []
        coordinates: list[np.ndarray] = []
        runs: list[np.ndarray] = []
        for segment in segments:
            if segment is None:
                kinds.append(_NONE)
            elif isinstance(segment, dict):
                kinds.append(_RLE)
                runs.append(np.array(segment["counts"], dtype=np.uint32))
                lengths.append(len(runs[-1]))
            else:
                kinds.append(_POLYGONS)
                coordinates += [np.array(ring, dtype=np.float64) for ring in segment]
                lengths += map(len, segment)
            first.append(len(lengths))
        self._kind = np.array(kinds, dtype=np.uint8)
        self._first_piece = np.array(first, dtype=np.int64)
        self._piece_length = np.array(lengths, dtype=np.int32)
        self._coordinates = np.concatenate([np.empty(0), *coordinates])
        self._rle_counts = np.concatenate([np.empty(0, np.uint32), *runs])
        # Start of each piece in the array of its kind.
        is_rle = np.repeat(self._kind, np.diff(self._first_piece)) == _RLE
        self._piece_start = np.zeros(len(lengths), dtype=np.int64)
        for chosen in (is_rle, ~is_rle):
            ends = np.cumsum(self._piece_length[chosen], dtype=np.int64)
            self._piece_start[chosen] = ends - self._piece_length[chosen]

    def __len__(self) -> int:
        return len(self._kind)

    @property
    def present(self) -> np.ndarray:
        """Flags of the objects that have an outline, bool (N,)."""
        return self._kind != _NONE

    def as_coco(self, position: int, height_px: int, width_px: int) -> list[list[float]] | dict[str, Any]:
        """Return polygons [[x, y, x, y, ...], ...], empty for an object without an outline, or an RLE ("size": [height,
        width], "counts": run lengths by column, background first)."""
        pieces = self._pieces(position)
        if self._kind[position] == _RLE:
            return {"size": [height_px, width_px], "counts": pieces[0].tolist()}
        return [piece.tolist() for piece in pieces]

    def mask(self, position: int, height_px: int, width_px: int) -> np.ndarray:
        """Return uint8 (height_px, width_px), 1 on the object; all 0 for an object without an outline. Polygons are
        filled as by pycocotools. Raise MissingPackageError if hotcoco is not installed."""
        if self._kind[position] == _RLE:
            return rle_to_mask(self._pieces(position)[0], height_px, width_px)
        rings = [piece.tolist() for piece in self._pieces(position)]
        if not rings:
            return np.zeros((height_px, width_px), dtype=np.uint8)
        coco = _coco_masks()
        return np.ascontiguousarray(coco.decode(coco.merge(coco.frPyObjects(rings, height_px, width_px))))

    def _pieces(self, position: int) -> list[np.ndarray]:
        buffer = self._rle_counts if self._kind[position] == _RLE else self._coordinates
        pieces = range(self._first_piece[position], self._first_piece[position + 1])
        return [buffer[self._piece_start[p] : self._piece_start[p] + self._piece_length[p]] for p in pieces]


def check_segment(value: Any, height_px: int, width_px: int) -> tuple[Any, list[str]]:
    """Return the usable part of an annotation's `segmentation`: None, a list of polygons, or an RLE with uncompressed
    "counts"; and the reason for each skipped polygon. Raise BadSegmentError if it is neither, and for an RLE that does
    not fill the image exactly.
    """
    if value is None or value == []:
        return None, []
    if isinstance(value, dict):
        return {"counts": _check_rle(value, height_px, width_px)}, []
    if not isinstance(value, list):
        raise BadSegmentError(f"its segmentation is {value!r:.40}, neither polygons nor an RLE")
    rings, refused = [], []
    for ring in value:
        if reason := _why_no_polygon(ring, height_px, width_px):
            refused.append(f"a polygon {reason}")
        else:
            rings.append(ring)
    return rings or None, refused


def mask_to_rle(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a (H, W) mask by column, background first."""
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def rle_to_mask(counts: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Return uint8 (height_px, width_px): the inverse of `mask_to_rle`."""
    on = (np.arange(len(counts)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(on, counts).reshape(width_px, height_px).T)


def _why_no_polygon(ring: Any, height_px: int, width_px: int) -> str | None:
    # A full-size file has tens of millions of coordinates, so built-ins replace loops where they can.
    if not isinstance(ring, list) or not _NUMBERS.issuperset(map(type, ring)):
        return f"is {ring!r:.40}, not a list of numbers"
    if len(ring) < 6 or len(ring) % 2:
        return f"has {len(ring)} coordinates; it needs three or more points of two coordinates each"
    if not math.isfinite(sum(value for value in ring if type(value) is float)):
        return "has a coordinate that is not finite"
    reach_px = 2 * max(height_px, width_px)
    if min(ring) < -reach_px or max(ring) > reach_px:
        return "extends far beyond the image"  # filling it would take memory for all pixels in between
    x, y = ring[::2], ring[1::2]
    twice_area = sum(map(mul, x, y[1:] + y[:1])) - sum(map(mul, y, x[1:] + x[:1]))
    return "encloses no area" if abs(twice_area) < 1e-6 else None


def _check_rle(value: dict[str, Any], height_px: int, width_px: int) -> list[int]:
    if value.get("size") != [height_px, width_px]:
        raise BadSegmentError(f"its RLE is for the size {value.get('size')!r:.40}, not {[height_px, width_px]}")
    counts = value.get("counts")
    if isinstance(counts, str):
        counts = _decompress(counts)
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        raise BadSegmentError(f"its RLE has the counts {counts!r:.40}, not a list of lengths")
    if sum(counts) != height_px * width_px:
        raise BadSegmentError(f"its RLE covers {sum(counts):,} of {height_px * width_px:,} pixels")
    return counts


def _decompress(text: str) -> list[int]:
    """Decode COCO's compressed RLE: each character holds 5 bits of a number and a continuation bit; the highest bit of
    a number's last character is its sign; from the fourth number on, each is a difference from the number two before
    it. Source: rleFrString of cocodataset/cocoapi."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 35:
            raise BadSegmentError(f"its RLE is not in COCO's compressed form, at {character!r}")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise BadSegmentError("its RLE ends in the middle of a number")
    return runs


def _coco_masks() -> Any:
    try:
        import hotcoco.mask
    except ImportError as error:
        raise MissingPackageError("filling polygons", "hotcoco", "'rexnet[detect]'") from error
    return hotcoco.mask
