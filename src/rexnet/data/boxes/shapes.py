"""Synthetic images of shapes with boxes and masks, which a detector learns in minutes, without a download."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rexnet.data.boxes.segments import mask_to_rle
from rexnet.files import check_new_folder, write_whole

SHAPES = ("circle", "triangle", "square", "cross")
_CATEGORY_IDS = {"circle": 3, "triangle": 7, "square": 8, "cross": 21}  # with gaps, like COCO's
_EMPTY_FRACTION = 0.05
_MOST_OBJECTS = 4
_SIDE_FRACTION = (0.18, 0.5)  # of the image's side
_VISIBLE_FRACTION = 0.4  # of a shape that others may cover
_TRIES = 20


def draw_shapes(folder: str | Path, *, images: int, seed: int, size_px: int = 128) -> dict[str, int]:
    """Draw a dataset in COCO's layout with `images` training images and a quarter as many validation images, squares of
    `size_px`: circles, triangles, squares and crosses of any colour on noise, up to four in an image, some partly
    occluded; some images are empty. Masks are RLEs of the visible parts, and boxes enclose these tightly. The same seed
    gives the same data, and no image is in both splits. Return the number of images by split. Raise ValueError for
    fewer than four images, sides below 32 px, a negative seed, and a folder that contains files.
    """
    for name, value, least in (("images", images, 4), ("size_px", size_px, 32), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; allowed: {least} or more")
    root = Path(folder)
    check_new_folder(root)
    counts = {"train": images, "val": images // 4}
    (root / "annotations").mkdir(parents=True)
    for number, (split, count) in enumerate(counts.items()):
        content = _draw_split(root / split, np.random.default_rng([seed, number]), count, size_px)
        write_whole(root / "annotations" / f"instances_{split}.json", json.dumps(content))
    return counts


def _draw_split(folder: Path, random: np.random.Generator, count: int, size_px: int) -> dict[str, Any]:
    folder.mkdir()
    images, annotations = [], []
    for number in range(1, count + 1):
        empty = number % round(1 / _EMPTY_FRACTION) == 0
        pixels, shapes = _draw_image(random, 0 if empty else int(random.integers(1, _MOST_OBJECTS + 1)), size_px)
        file_name = f"{number:06d}.png"
        Image.fromarray(pixels).save(folder / file_name)
        images.append({"id": number, "file_name": file_name, "width": size_px, "height": size_px})
        for shape, mask in shapes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": _CATEGORY_IDS[shape],
                    "bbox": _box_around(mask),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [size_px, size_px], "counts": mask_to_rle(mask)},
                }
            )
    categories = [{"id": number, "name": name} for name, number in _CATEGORY_IDS.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _draw_image(
    random: np.random.Generator, count: int, size_px: int
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """Return uint8 (size_px, size_px, 3), and each shape's name with the mask of its visible part."""
    background = random.integers(40, 216, 3)
    pixels = np.clip(background + random.normal(0, 12, (size_px, size_px, 3)), 0, 255)
    placed: list[tuple[str, np.ndarray, int]] = []  # with its area before occlusion
    for _ in range(count):
        for _ in range(_TRIES):
            shape = str(random.choice(SHAPES))
            mask = _shape_mask(shape, random, size_px)
            if mask.any() and all((other & ~mask).sum() >= _VISIBLE_FRACTION * area for _, other, area in placed):
                placed = [(name, other & ~mask, area) for name, other, area in placed]
                placed.append((shape, mask, int(mask.sum())))
                colour = _other_colour(random, background)
                pixels[mask] = np.clip(colour + random.normal(0, 6, (int(mask.sum()), 3)), 0, 255)
                break
    return pixels.astype(np.uint8), [(name, mask) for name, mask, _ in placed]


def _shape_mask(shape: str, random: np.random.Generator, size_px: int) -> np.ndarray:
    """Return bool (size_px, size_px), entirely within the image."""
    low, high = _SIDE_FRACTION
    side = size_px * random.uniform(low, high)
    centre_x, centre_y = random.uniform(side / 2, size_px - side / 2, 2)
    y, x = np.mgrid[:size_px, :size_px] + 0.5
    # From -1 to 1 within the shape's square.
    x, y = (x - centre_x) / (side / 2), (y - centre_y) / (side / 2)
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "triangle":
        return (y <= 1) & (y >= 2 * np.abs(x) - 1)
    if shape == "square":
        return (np.abs(x) <= 1) & (np.abs(y) <= 1)
    return (np.minimum(np.abs(x), np.abs(y)) <= 1 / 3) & (np.maximum(np.abs(x), np.abs(y)) <= 1)


def _other_colour(random: np.random.Generator, background: np.ndarray) -> np.ndarray:
    while True:
        colour = random.integers(0, 256, 3)
        if math.dist(colour, background) > 90:
            return colour


def _box_around(mask: np.ndarray) -> list[int]:
    """Return x, y, width, height of the box around the true pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
