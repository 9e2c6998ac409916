"""Rows of a COCO result file: conversion from a detector's outputs, and checks against the ground truth."""

import math
from collections.abc import Hashable, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rexnet.detection.config import EVALUATOR
from rexnet.errors import MissingPackageError

_MASK_THRESHOLD = 0.5
_IDS = {"image_id": "images", "category_id": "categories"}


def require_evaluator() -> Any:
    """Return the package hotcoco. Raise MissingPackageError if it is not installed."""
    try:
        import hotcoco
    except ImportError as error:
        raise MissingPackageError(*EVALUATOR) from error
    return hotcoco


def to_coco_rows(
    outputs: Iterable[dict[str, Tensor]], *, image_ids: Iterable[int], category_ids: Sequence[int] | np.ndarray
) -> list[dict[str, Any]]:
    """Convert outputs of torchvision's detectors to rows of a COCO result file.

    An output has boxes (N, 4) as x0 y0 x1 y1, labels (N,) from 1, scores (N,) and optionally masks (N, 1, H, W), 0 to
    1, at the size of the image; label i is category_ids[i - 1]. A row has the box as x0, y0, width, height and the mask
    as RLE. Raise ValueError for a label outside 1 to K.
    """
    ids = np.asarray(category_ids, dtype=np.int64)
    rows = []
    for output, image_id in zip(outputs, image_ids, strict=True):
        labels = output["labels"].cpu().numpy()
        wrong = labels[(labels < 1) | (labels > len(ids))]
        if wrong.size:
            raise ValueError(f"a detection in image {image_id} has label {wrong[0]}; labels are 1 to {len(ids)}")
        boxes = output["boxes"].cpu().double()
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)
        columns: dict[str, list[Any]] = {
            "category_id": ids[labels - 1].tolist(),
            "bbox": boxes.tolist(),
            "score": output["scores"].cpu().double().tolist(),
        }
        if "masks" in output:
            columns["segmentation"] = _encode(output["masks"][:, 0] > _MASK_THRESHOLD)
        for values in zip(*columns.values(), strict=True):
            rows.append({"image_id": int(image_id), **dict(zip(columns, values, strict=True))})
    return rows


def _encode(masks: Tensor) -> list[dict[str, Any]]:
    """Return the RLEs of boolean masks (N, H, W)."""
    # RLE counts run down columns, so the transposed masks are read in order.
    turned = masks.transpose(1, 2).contiguous().cpu().numpy()
    found = require_evaluator().mask.encode(turned.view(np.uint8).transpose(2, 1, 0))
    return [{"size": each["size"], "counts": each["counts"].decode("ascii")} for each in found]


def check_rows(rows: list[dict[str, Any]], ground_truth: dict[str, Any]) -> None:
    """Raise ValueError for rows with unknown images or categories, or with numbers that are not finite."""
    known = {key: {each["id"] for each in ground_truth[group]} for key, group in _IDS.items()}
    for row in rows:
        if missing := [key for key in (*_IDS, "score") if key not in row]:
            raise ValueError(f"a detection, {row!r:.80}, lacks {missing[0]}, which a COCO result file has")
        for key, group in _IDS.items():
            if not isinstance(row[key], Hashable) or row[key] not in known[key]:
                raise ValueError(
                    f"detections have {key} {row[key]!r:.40}, which the {group} of the ground truth do not have"
                )
        if not all(map(_is_finite_number, (row["score"], *row.get("bbox", ())))):
            numbers = f"score {row['score']!r:.40} and box {row.get('bbox')!r:.80}"
            raise ValueError(f"a detection in image {row['image_id']} has {numbers}; both must be finite numbers")
    check_rle_sizes(rows, ground_truth)


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_rle_sizes(rows: list[dict[str, Any]], ground_truth: dict[str, Any]) -> None:
    """Raise ValueError for a mask whose RLE does not have the size of its image."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in ground_truth["images"]}
    for row in rows:
        mask, size = row.get("segmentation"), sizes.get(row["image_id"])
        if size and isinstance(mask, dict) and list(mask.get("size") or ()) != size:
            got = f"{mask.get('size')!r:.40}, but the image has {size} (height, width)"
            raise ValueError(f"a mask in image {row['image_id']} has an RLE of size {got}")
