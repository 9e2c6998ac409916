"""Drawn COCO sets with every oddity, as json contents, and what pycocotools says about them."""

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hotcoco.mask import decode
from pycocotools import mask
from torch import Tensor

SPARSE_IDS = [17, 0, 90, 3]
FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def draw_set(
    seed: int, *, category_ids: Sequence[int], images: int = 20, masks: bool = False, every_class: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and rows of detections, about six in ten of them near an object and half of them tied. The last
    class has no object unless `every_class`."""
    random = np.random.default_rng(seed)
    with_objects = list(category_ids) if every_class else list(category_ids)[:-1]
    coco: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": f"class {number}"} for number in category_ids],
    }
    rows: list[dict[str, Any]] = []
    for image_id in random.permutation(5 * images)[:images].tolist():
        height, width = random.integers(60, 300, 2).tolist()
        coco["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width})
        objects = [] if random.random() < 0.15 else _boxes(random, random.poisson(6), width, height)
        names = random.choice(with_objects, len(objects))
        for box, category_id in zip(objects, names.tolist(), strict=True):
            row = {"id": len(coco["annotations"]) + 1, "image_id": image_id, "category_id": category_id, "bbox": box}
            row |= {"iscrowd": int(random.random() < 0.1), "area": box[2] * box[3] * random.uniform(0.5, 1.0)}
            if masks:
                row["segmentation"] = _ellipse(box, width, height)
                row["area"] = float(mask.area(row["segmentation"]))
            coco["annotations"].append(row)
        count = (0, 130, random.poisson(15))[random.choice(3, p=(0.15, 0.1, 0.75))]
        found = _boxes(random, count, width, height)
        tied = random.random() < 0.5
        for index in range(count):
            box, category_id = found[index], int(random.choice(category_ids))
            if objects and random.random() < 0.6:
                near = random.integers(len(objects))
                moved = np.array(objects[near]) * random.normal(1, 0.08, 4)
                box, category_id = _clipped(moved, width, height), int(names[near])
            row = {"image_id": image_id, "category_id": category_id, "bbox": box}
            row["score"] = round(random.random(), 1 if tied else 6)
            rows.append(row | ({"segmentation": _ellipse(box, width, height)} if masks else {}))
    return coco, rows


def to_outputs(coco: dict[str, Any], rows: list[dict[str, Any]], category_ids: list[int]) -> list[dict[str, Tensor]]:
    """The rows as torchvision's detectors give them, an output an image in the order of `coco`."""
    outputs = []
    for image in coco["images"]:
        mine = [row for row in rows if row["image_id"] == image["id"]]
        boxes = torch.tensor([row["bbox"] for row in mine], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        output = {
            "boxes": boxes.float(),
            "labels": torch.tensor([category_ids.index(row["category_id"]) + 1 for row in mine], dtype=torch.int64),
            "scores": torch.tensor([row["score"] for row in mine], dtype=torch.float32),
        }
        if "segmentation" in (rows or [{}])[0]:
            drawn = [decode(row["segmentation"]) for row in mine]
            empty = np.zeros((0, image["height"], image["width"]), np.uint8)
            output["masks"] = torch.from_numpy(np.stack(drawn) if drawn else empty)[:, None].float() * 0.9
        outputs.append(output)
    return outputs


def oracle(coco: dict[str, Any], rows: list[dict[str, Any]], kind: str) -> tuple[dict[str, float], dict[str, float]]:
    """pycocotools' twelve numbers and its AP of each class by name, 0 to 1 or -1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = copy.deepcopy(rows)
    if kind == "mask":
        # With a box, pycocotools sorts a mask by the box's area.
        for row in rows:
            del row["bbox"]
    truth = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = copy.deepcopy(coco)
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(rows), {"box": "bbox", "mask": "segm"}[kind])
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    by_class = {}
    for index, category_id in enumerate(evaluator.params.catIds):
        precision = evaluator.eval["precision"][:, :, index, 0, -1]
        defined = precision[precision > -1]
        by_class[truth.cats[category_id]["name"]] = float(defined.mean()) if defined.size else -1.0
    return dict(zip(FIGURES, evaluator.stats.tolist(), strict=True)), by_class


def _boxes(random: np.random.Generator, count: int, width: int, height: int) -> list[list[float]]:
    """x0, y0, width, height of up to the whole image, many of them small."""
    size = np.array([width, height])
    starts = random.random((count, 2)) * size * 0.8
    sizes = random.exponential(0.25, (count, 2)) * size + 2
    return [_clipped(np.concatenate(pair), width, height) for pair in zip(starts, sizes, strict=True)]


def _clipped(box: np.ndarray, width: int, height: int) -> list[float]:
    x, y = min(float(box[0]), width - 3), min(float(box[1]), height - 3)
    return [x, y, min(float(box[2]), width - x), min(float(box[3]), height - y)]


def _ellipse(box: list[float], width: int, height: int) -> dict[str, Any]:
    """The ellipse within a box, as run lengths."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    x, y = (columns - box[0]) / box[2] * 2 - 1, (rows - box[1]) / box[3] * 2 - 1
    found = mask.encode(np.asfortranarray((x * x + y * y <= 1).astype(np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode("ascii")}
