"""Detections as JSON: boxes in pixels of the upright image, masks as COCO's uncompressed RLE."""

from typing import Any

import numpy as np
from torch import Tensor

from rexnet.detection.config import DetectPredictConfig
from rexnet.serve.model_registry import Answer

MIN_SCORE = DetectPredictConfig.min_score


def upright_boxes(answer: Answer) -> Tensor:
    """Return the boxes (N, 4) as left, top, right, bottom; the detector may have seen a smaller copy of the image."""
    seen = answer.result.picture
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
    """Return where a mask (h, w) of an image or a smaller copy is above one half in the whole image, as COCO's
    uncompressed RLE: column by column, the first run is outside.

    Each pixel is that of the nearest in the mask. The whole image is never laid out in memory.
    """
    inside = mask.numpy() > 0.5
    rows, columns = (_nearest(*sides) for sides in zip((height, width), inside.shape, strict=True))
    line = inside[:, columns].ravel(order="F")
    changes = np.flatnonzero(line[1:] != line[:-1]) + 1
    # Where in the whole image's columns the mask's rows begin.
    begins = np.searchsorted(rows, np.arange(inside.shape[0]))
    places = changes // inside.shape[0] * height + begins[changes % inside.shape[0]]
    ends = np.concatenate([[0] if line[0] else [], places, [width * height]]).astype(np.int64)
    return {"size": [height, width], "counts": np.diff(ends, prepend=0).tolist()}


def _nearest(whole: int, part: int) -> np.ndarray:
    """Return, for each of `whole` cells, the index of the one of `part` cells in which its centre lies."""
    return (2 * np.arange(whole) + 1) * part // (2 * whole)
