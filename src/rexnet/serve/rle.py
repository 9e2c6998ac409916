"""Masks as run lengths, which pycocotools reads."""

from typing import Any

import numpy as np
from torch import Tensor


def run_lengths(mask: Tensor, *, width: int, height: int) -> dict[str, Any]:
    """Probabilities (h, w) of a picture or a smaller copy -> where they are above one half in the whole picture, as
    COCO's uncompressed run lengths: column by column, the first run is of what lies outside.

    Each pixel is as the nearest one of the mask. The whole picture is never laid out in memory.
    """
    inside = mask.numpy() > 0.5
    rows, columns = (_nearest(*sides) for sides in zip((height, width), inside.shape, strict=True))
    line = inside[:, columns].ravel(order="F")
    changes = np.flatnonzero(line[1:] != line[:-1]) + 1
    # Where in the whole picture's columns the mask's rows begin.
    begins = np.searchsorted(rows, np.arange(inside.shape[0]))
    places = changes // inside.shape[0] * height + begins[changes % inside.shape[0]]
    ends = np.concatenate([[0] if line[0] else [], places, [width * height]]).astype(np.int64)
    return {"size": [height, width], "counts": np.diff(ends, prepend=0).tolist()}


def _nearest(whole: int, part: int) -> np.ndarray:
    """For each of `whole` cells, the index of the one of `part` cells that its middle lies in."""
    return (2 * np.arange(whole) + 1) * part // (2 * whole)
