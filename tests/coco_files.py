"""Small data sets in COCO's layout, for tests that need annotations of their own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 90, "name": "fox"}]


def image_entry(number: int, width: int = 40, height: int = 30, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "width": width, "height": height, **more}


def annotation(
    number: int, image: int = 1, category: int = 5, box: Any = (4, 5, 10, 12), **more: Any
) -> dict[str, Any]:
    box = list(box) if isinstance(box, tuple) else box
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}


def write_side(root: Path, side: str, images: list, annotations: list, categories: list | None = None) -> Path:
    """root/annotations/instances_SIDE.json with the images in root/SIDE, noise, where the entry says how large."""
    folder = root / side
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    random = np.random.default_rng(len(side))
    for entry in images:
        if isinstance(entry, dict) and not (folder / str(entry.get("file_name"))).exists() and "missing" not in entry:
            size = (entry["height"], entry["width"], 3)
            Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / entry["file_name"])
    file = root / "annotations" / f"instances_{side}.json"
    content = {"images": images, "annotations": annotations, "categories": categories or CATEGORIES}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def many_images(root: Path, count: int, side: str = "train") -> Path:
    """Wide, tall and square images in turn, each with as many boxes as its id modulo 4; every fifth has a crowd."""
    sizes = [(40, 30), (24, 36), (30, 30)]
    images = [image_entry(n, *sizes[n % 3]) for n in range(1, count + 1)]
    annotations = []
    for entry in images:
        for place in range(entry["id"] % 4):
            polygon = [[4 + place, 5, 14 + place, 5, 14 + place, 17]]
            box = (4 + place, 5, 10, 12)
            annotations.append(annotation(len(annotations) + 1, entry["id"], 5, box, segmentation=polygon))
        if entry["id"] % 5 == 0:
            runs = {"size": [entry["height"], entry["width"]], "counts": [0, entry["height"] * entry["width"]]}
            crowd = annotation(len(annotations) + 1, entry["id"], 2, (0, 0, 20, 20), segmentation=runs)
            annotations.append({**crowd, "iscrowd": 1})
    return write_side(root, side, images, annotations)
