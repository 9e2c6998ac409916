"""COCO's average precision and recall of a detector, exact for any number of processes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from rexnet.detection.coco_rows import check_rle_sizes, check_rows, require_evaluator, to_coco_rows
from rexnet.text import quantity
from rexnet.training.distributed import World
from rexnet.training.evaluation import SizedBatches
from rexnet.training.progress import EpochProgress

Kind = Literal["box", "mask"]

_IOU_TYPES = {"box": "bbox", "mask": "segm"}


class GroundTruth(Protocol):
    """Dataset of images and objects for `evaluate_detector`; `rexnet.data.boxes.coco.CocoImages` is one."""

    category_ids: np.ndarray
    """Category ids, int64 (K,), in the order of the labels from 1."""
    image_ids: np.ndarray
    """Image ids, int64 (N,), in the order of a batch's `indices`."""
    has_masks: bool

    def to_coco(self) -> dict[str, Any]:
        """Return images, categories and annotations, crowds included, as in COCO JSON, with the sizes, ids and class
        names of this dataset. Annotations have `area`, `iscrowd` and, with a mask, `segmentation` (polygons or RLE)."""
        ...


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Precision, 0 to 1, at each of `recall`, at an IoU of 0.5 and up to 100 detections per image.

    As in COCO, the highest precision at that recall or a higher one. Classes without objects have no curve.
    """

    recall: list[float]
    """Recall at each point: 0, 0.01, ... 1."""
    mean: list[float]
    """Mean precision over the classes."""
    by_class: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class CocoResult:
    """COCO metrics over all images. As in COCO, crowds do not count as objects, and detections inside crowds are
    ignored."""

    metrics: dict[str, float]
    """Percent. For boxes `box_ap` (mean over IoU 0.5 to 0.95), `box_ap50`, `box_ap75`, `box_ap_small`, `box_ap_medium`,
    `box_ap_large` (by the object's area, with limits at 32² and 96² pixels), and recall with at most 1, 10 and 100
    detections per image, `box_ar1`, `box_ar10`, `box_ar100`, `box_ar_small`, `box_ar_medium`, `box_ar_large`; the same
    for masks, `mask_ap` and so on; `images` counts the evaluated images. Metrics of object sizes that do not occur (-1
    in pycocotools) are absent."""
    by_class: dict[str, dict[str, Any]]
    """By class name: `objects`, without crowds, and in percent `box_ap`, `box_ap50` (`mask_ap`, `mask_ap50`), None
    without objects."""
    curves: dict[Kind, PrecisionRecall]


def score(ground_truth: dict[str, Any], rows: list[dict[str, Any]], *, kinds: Sequence[Kind] = ("box",)) -> CocoResult:
    """Return the metrics of pycocotools, up to rounding, over all images of `ground_truth`, the content of a COCO JSON
    file.

    `rows`: rows of a COCO result file, with any scores; without rows, all metrics are 0. For `mask`, detections need a
    `segmentation`, objects without one are ignored, and the sizes of detections are the areas of their masks. Raise
    ValueError if there are no objects, two categories have the same name, or rows have unknown images or categories or
    numbers that are not finite.
    """
    hotcoco = require_evaluator()
    check_ground_truth(ground_truth)
    check_rows(rows, ground_truth)
    check_rle_sizes(ground_truth["annotations"], ground_truth)
    # pycocotools ignores an object with id 0 and merges objects with the same id.
    objects = [{**row, "id": number} for number, row in enumerate(_fill_fields(ground_truth["annotations"]), start=1)]
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    counts = Counter(row["category_id"] for row in objects if not row["iscrowd"])
    by_class: dict[str, dict[str, Any]] = {each["name"]: {"objects": counts[each["id"]]} for each in categories}
    metrics: dict[str, float] = {}
    curves: dict[Kind, PrecisionRecall] = {}
    for kind in kinds:
        scored = objects if kind == "box" else [_ignored_without_mask(row) for row in objects]
        truth = hotcoco.COCO({**ground_truth, "annotations": scored})
        evaluator = hotcoco.COCOeval(truth, truth.load_res(_rows_of(kind, rows)), _IOU_TYPES[kind])
        evaluator.evaluate()
        evaluator.accumulate()
        precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
        metrics |= {f"{kind}_{name}": value for name, value in _metrics(precision, recall).items()}
        # (IoU, recall, class) for objects of any size and 100 detections.
        precision = precision[:, :, :, 0, -1]
        for index, row in enumerate(by_class.values()):
            row[f"{kind}_ap"] = _percent(precision[:, :, index])
            row[f"{kind}_ap50"] = _percent(precision[0, :, index])
        curves[kind] = _curves(precision[0], names)
    return CocoResult(metrics={**metrics, "images": len(ground_truth["images"])}, by_class=by_class, curves=curves)


def check_ground_truth(ground_truth: dict[str, Any]) -> None:
    """Raise ValueError if nothing can be evaluated."""
    if all(row["iscrowd"] for row in _fill_fields(ground_truth["annotations"])):
        raise ValueError(f"there are no objects in the {quantity(len(ground_truth['images']), 'image')} to evaluate")
    names = Counter(category["name"] for category in ground_truth["categories"])
    name, count = names.most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} categories have the name {name!r}; metrics by class need distinct names")


def _fill_fields(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the annotations with the fields that box-only JSON may lack."""
    return [{"iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], **row} for row in annotations]


def _ignored_without_mask(row: dict[str, Any]) -> dict[str, Any]:
    """Return an object for mask metrics; an object without a mask becomes a crowd with its box as the mask."""
    if row.get("segmentation"):
        return row
    x, y, width, height = row["bbox"]
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {**row, "iscrowd": 1, "segmentation": [corners]}


def _rows_of(kind: Kind, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if kind == "box":
        return rows
    for row in rows:
        if "segmentation" not in row:
            raise ValueError(f"a detection in image {row['image_id']} has no segmentation, which mask metrics need")
    # pycocotools takes the size of a row with a box from the box's area.
    return [{name: value for name, value in row.items() if name != "bbox"} for row in rows]


def _metrics(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """Return percentages of precision (IoU, recall, class, size, detections) and recall (IoU, class, size,
    detections)."""
    ap, sizes = precision[..., 2], tuple(enumerate(("small", "medium", "large"), start=1))
    chosen = {"ap": ap[..., 0], "ap50": ap[0, ..., 0], "ap75": ap[5, ..., 0]}
    chosen |= {f"ap_{name}": ap[..., size] for size, name in sizes}
    chosen |= {f"ar{most}": recall[:, :, 0, place] for place, most in enumerate((1, 10, 100))}
    chosen |= {f"ar_{name}": recall[:, :, size, 2] for size, name in sizes}
    percents = {name: _percent(values) for name, values in chosen.items()}
    return {name: value for name, value in percents.items() if value is not None}


def _percent(values: np.ndarray) -> float | None:
    """Return the mean without the -1 of objects that do not occur."""
    defined = values[values > -1]
    return 100.0 * float(defined.mean()) if defined.size else None


def _curves(precision: np.ndarray, names: list[str]) -> PrecisionRecall:
    """Return the curves from precision (recall, class)."""
    defined = precision[0] > -1
    return PrecisionRecall(
        recall=np.linspace(0, 1, len(precision)).tolist(),
        mean=precision[:, defined].mean(axis=1).tolist(),
        by_class={name: precision[:, index].tolist() for index, name in enumerate(names) if defined[index]},
    )


@torch.inference_mode()
def evaluate_detector(
    model: nn.Module,
    batches: SizedBatches,
    images: GroundTruth,
    *,
    world: World,
    autocast_dtype: torch.dtype | None = None,
) -> CocoResult:
    """Run `model` in eval mode on this process's part of the images, and evaluate the detections of all processes.

    A batch has `images`, tensors (3, H, W), and `indices` (B,) into images.image_ids. An image that occurs twice counts
    once; an image that no process reads does not count. Masks are evaluated if the model predicts masks and the dataset
    has them. Raise ValueError as `score` does, on every process, and Stopped if any process was interrupted.
    """
    require_evaluator()
    ground_truth = images.to_coco()
    check_ground_truth(ground_truth)
    model.eval()
    found: list[tuple[int, list[dict[str, Any]]]] = []
    finds_masks = False
    with EpochProgress("validation", len(batches), visible=world.is_main) as progress:
        for batch in progress.watch(batches):
            pixels = [image.to(world.device, non_blocking=True) for image in batch.images]
            with torch.autocast(world.device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                outputs = model(pixels)
            ids = images.image_ids[batch.indices.numpy()].tolist()
            for output, image_id in zip(outputs, ids, strict=True):
                finds_masks |= "masks" in output
                scored = output if images.has_masks else {key: output[key] for key in ("boxes", "labels", "scores")}
                rows = to_coco_rows([scored], image_ids=[image_id], category_ids=images.category_ids)
                found.append((image_id, rows))
            progress.update(len(pixels), {})
            if world.stop.requested:
                break
    stopped, finds_masks = world.any(world.stop.requested, finds_masks)
    if stopped:
        raise world.stop.stopped()
    kinds: tuple[Kind, ...] = ("box", "mask") if finds_masks and images.has_masks else ("box",)
    return _score_together(found, ground_truth, kinds=kinds, world=world)


def _score_together(
    found: list[tuple[int, list[dict[str, Any]]]], ground_truth: dict[str, Any], *, kinds: Sequence[Kind], world: World
) -> CocoResult:
    """Evaluate the rows of all processes, by image."""
    gathered = dict(reversed(world.gather(found)))
    if not gathered:
        raise ValueError("there are no images to evaluate on")
    outcome: CocoResult | ValueError | None = None
    if world.is_main:
        seen = {
            **ground_truth,
            "images": [image for image in ground_truth["images"] if image["id"] in gathered],
            "annotations": [row for row in ground_truth["annotations"] if row["image_id"] in gathered],
        }
        try:
            outcome = score(seen, [row for rows in gathered.values() for row in rows], kinds=kinds)
        except ValueError as error:
            outcome = error
    outcome = world.from_main(outcome)
    if isinstance(outcome, ValueError):
        raise outcome
    assert outcome is not None
    return outcome
