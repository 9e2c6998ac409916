"""Seconds to score the detections of a COCO-sized set, by `rexnet.detection.evaluation.score` beside pycocotools.

Both start from the contents of the two json files and end with all twelve numbers: the index of the ground truth, the
detections read in, evaluate, accumulate, summarize; ours also checks the rows and makes scores and curves by class. The
two take turns within every round, and their numbers are compared. Objects and detections are random, six in ten of the
detections near an object.
"""

import contextlib
import copy
import importlib.metadata
import io
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

import records
from rexnet.detection.evaluation import Kind, score

NAME = "coco_evaluation_cpu"
CLASSES = 80
OBJECTS = 7
DETECTIONS = 100
# pycocotools' order of its numbers.
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
FIGURES += ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The amount of data to score."""

    images: int = 5000
    """With boxes."""
    mask_images: int = 500
    """With boxes and masks, of which only the masks are scored."""
    rounds: int = 5
    threads: int = 1
    """Of our scorer; pycocotools has one."""


def draw(images: int, *, masks: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth with 7 objects an image in the mean, and rows of 0 to 100 detections an image."""
    random = np.random.default_rng(0)
    size_px = 160 if masks else 640
    coco: dict[str, Any] = {
        "images": [{"id": image_id, "width": size_px, "height": size_px} for image_id in range(1, images + 1)],
        "annotations": [],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)],
    }
    rows: list[dict[str, Any]] = []
    for image in coco["images"]:
        objects, names = boxes(random, random.poisson(OBJECTS), size_px), random.integers(1, CLASSES + 1, 100)
        found = boxes(random, int(random.integers(0, DETECTIONS + 1)), size_px)
        found_names = random.integers(1, CLASSES + 1, len(found))
        if len(objects):
            near, source = random.random(len(found)) < 0.6, random.integers(0, len(objects), len(found))
            found[near] = (objects[source] * random.normal(1, 0.07, found.shape))[near]
            found_names[near] = names[source][near]
        for box, category_id in zip(objects, names[: len(objects)].tolist(), strict=True):
            row = {"id": len(coco["annotations"]) + 1, "image_id": image["id"], "category_id": category_id}
            row |= {"bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": int(random.random() < 0.02)}
            coco["annotations"].append(row | ({"segmentation": ellipse(box, size_px)} if masks else {}))
        for box, category_id in zip(found, found_names.tolist(), strict=True):
            row = {"image_id": image["id"], "category_id": category_id, "score": round(random.random(), 4)}
            rows.append(row | ({"segmentation": ellipse(box, size_px)} if masks else {"bbox": box.tolist()}))
    return coco, rows


def boxes(random: np.random.Generator, count: int, size_px: int) -> np.ndarray:
    """float64 (count, 4): x0, y0, width, height."""
    starts = random.random((count, 2)) * 0.8 * size_px
    sizes = np.minimum(random.exponential(0.2, (count, 2)) * size_px + 2, size_px - starts)
    return np.concatenate((starts, sizes), axis=1)


def ellipse(box: np.ndarray, size_px: int) -> dict[str, Any]:
    """Return the ellipse within a box, as RLE."""
    from hotcoco import mask

    along = np.arange(size_px) + 0.5
    x, y = ((along - box[axis]) / box[axis + 2] * 2 - 1 for axis in (0, 1))
    found = mask.encode((y[:, None] ** 2 + x[None] ** 2 <= 1).astype(np.uint8))
    return {"size": found["size"], "counts": found["counts"].decode("ascii")}


def score_with_pycocotools(coco: dict[str, Any], rows: list[dict[str, Any]], kind: Kind) -> list[float]:
    """Return percent, -100 where no object occurs."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        # Its annotations of types know files only.
        truth: Any = COCO()
        truth.dataset = coco
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(rows), "bbox" if kind == "box" else "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [100 * value for value in evaluator.stats]


def score_with_ours(coco: dict[str, Any], rows: list[dict[str, Any]], kind: Kind) -> list[float]:
    figures = score(coco, rows, kinds=(kind,)).metrics
    return [figures.get(f"{kind}_{name}", -100.0) for name in FIGURES]


def measure(kind: Kind, images: int, rounds: int) -> dict[str, Any]:
    coco, rows = draw(images, masks=kind == "mask")
    seconds: dict[str, list[float]] = {"ours": [], "pycocotools": []}
    figures: dict[str, list[float]] = {}
    scorers = {"ours": score_with_ours, "pycocotools": score_with_pycocotools}
    for number in range(rounds):
        for name in list(scorers) if number % 2 else reversed(scorers):
            # pycocotools writes into what it is given.
            given = copy.deepcopy((coco, rows))
            began = time.perf_counter()
            figures[name] = scorers[name](*given, kind)
            seconds[name].append(time.perf_counter() - began)
            print(f"{kind}, round {number + 1}: {name} {seconds[name][-1]:.2f} s", flush=True)
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["pycocotools"], strict=True)]
    return {
        "what": {"box": "boxes", "mask": "masks"}[kind],
        "images": images,
        "classes": CLASSES,
        "objects": len(coco["annotations"]),
        "detections": len(rows),
        "rounds": rounds,
        "seconds": {name: records.quartiles(values) for name, values in seconds.items()},
        "ratio": records.quartiles(ratios),
        "largest_difference_percent": float(np.abs(np.subtract(figures["ours"], figures["pycocotools"])).max()),
        **{name: importlib.metadata.version(name) for name in ("hotcoco", "pycocotools", "numpy")},
    }


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    # Read once, when the scorer first runs.
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    kinds: dict[Kind, int] = {"box": options.images, "mask": options.mask_images}
    for kind, images in kinds.items():
        row = measure(kind, images, options.rounds)
        print(f"{row['what']}: {row['ratio'][1]} times as fast, numbers apart by {row['largest_difference_percent']}")
        path = records.append(NAME, {**row, **records.provenance("cpu"), "threads": options.threads})
        print(f"appended to {path}")


if __name__ == "__main__":
    main()
