"""Detections as JSON: boxes in pixels of the upright image, masks as COCO's uncompressed RLE."""

from typing import Any

import numpy as np
from torch import Tensor

from rexnet.detection.predict import DetectPredictConfig
from rexnet.serve.model_registry import Answer

MIN_SCORE = DetectPredictConfig.min_score


def upright_boxes(answer: Answer) -> Tensor:
    """(N, 4): left, top, right, bottom. The detector may have seen a smaller copy of the image."""
    seen = answer.result.picture
    across, down = answer.width / seen.width, answer.height / seen.height
    boxes: Tensor = answer.result.output["boxes"]
    return boxes * boxes.new_tensor([across, down, across, down])


def described_objects(answer: Answer, min_score: float) -> list[dict[str, Any]]:
    """As /predict names them, the surest first."""
    found = []
    output, boxes = answer.result.output, upright_boxes(answer).tolist()
    for index, (name, score) in enumerate(zip(answer.result.names, output["scores"].tolist(), strict=True)):
        if score < min_score:
            continue
        one = {"class": name, "score": round(score, 6), "box": [round(value, 2) for value in boxes[index]]}
        if "masks" in output:
            one["mask"] = uncompressed_rle(output["masks"][index, 0], width=answer.width, height=answer.height)
        found.append(one)
    return found


def uncompressed_rle(mask: Tensor, *, width: int, height: int) -> dict[str, Any]:
    """Probabilities (h, w) of an image or a smaller copy -> where they are above one half in the whole image, as
    COCO's uncompressed run lengths: column by column, the first run is of what lies outside.

    Each pixel is as the nearest one of the mask. The whole image is never laid out in memory.
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
    """For each of `whole` cells, the index of the one of `part` cells that its middle lies in."""
    return (2 * np.arange(whole) + 1) * part // (2 * whole)
