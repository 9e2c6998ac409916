"""Masks as run lengths, which pycocotools reads."""

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor


def run_lengths(mask: Tensor, *, width: int, height: int) -> dict[str, Any]:
    """Probabilities (h, w) of a picture or a smaller copy -> where they are above one half in the whole picture, as
    COCO's uncompressed run lengths: column by column, the first run is of what lies outside."""
    inside = np.ascontiguousarray((mask.numpy() > 0.5).astype(np.uint8))
    if inside.shape != (height, width):
        inside = np.asarray(Image.fromarray(inside).resize((width, height), Image.Resampling.NEAREST))
    columns = np.concatenate([[0], inside.ravel(order="F"), [2]])
    changes = np.flatnonzero(columns[1:] != columns[:-1])
    counts = np.diff(np.concatenate([[0], changes]))
    return {"size": [height, width], "counts": counts.tolist()}
