"""Reads data sets in the layout of YOLO: a text file of boxes beside each image."""

import math
import os
from pathlib import Path
from typing import Any

from rexnet.data.boxes.boxed_images import BoxedImage, BoxedImages, NamedBox, Side, upright_sizes_px
from rexnet.data.decode import image_files
from rexnet.text import printable

_DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES = ("classes.txt", "labels/classes.txt", "obj.names")
_KEYS: dict[Side, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "test")}
_TOLERANCE = 1e-6


def is_yolo(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*_DESCRIPTIONS, *_NAMES))


def read_yolo(folder: Path, *, workers: int) -> BoxedImages:
    """Class names from data.yaml (or dataset.yaml) or classes.txt; images from the folders that it names or from
    images/train and images/val (train/images and valid/images), or else images/ without sides. The labels of
    images/a.jpg are labels/a.txt, or a.txt beside it where no folder is called images.

    A line is a class and centre x, centre y, width, height, or the points of a polygon, all as shares of the width and
    height of the upright picture. An image without a text file has no boxes. Raises ValueError for a description that
    cannot be read, and where there are no class names or no images.
    """
    description = _read_description(folder)
    found = BoxedImages(classes=_class_names(folder, description))
    for side, images_folder in _image_folders(folder, description).items():
        paths = image_files(images_folder)
        images = []
        for path, size in zip(paths, upright_sizes_px(paths, workers=workers), strict=True):
            if isinstance(size, str):
                found.left_out.append(f"{printable(path)}: {size}")
                continue
            boxes = _read_labels(_label_file(folder, path), size, found)
            file_name = os.path.relpath(path, images_folder).replace(os.sep, "/")
            images.append(BoxedImage(path, file_name, *size, boxes))
        found.sides[side] = images
    return found


def _read_description(folder: Path) -> dict[str, Any]:
    file = next((folder / name for name in _DESCRIPTIONS if (folder / name).is_file()), None)
    if file is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{printable(file)} is not plain YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{printable(file)} holds a {type(content).__name__}, but must have keys such as names")
    return content


def _class_names(folder: Path, description: dict[str, Any]) -> tuple[str, ...]:
    names: Any = description.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(f"the names of {printable(folder)} must be numbered from 0 without a gap")
        names = [names[number] for number in range(len(names))]
    if names is None:
        file = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
        if file is None:
            looked = ", ".join((*_DESCRIPTIONS, *_NAMES))
            raise ValueError(f"{printable(folder)} names no classes; looked for {looked}")
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        raise ValueError(f"{printable(folder)} has no list of class names")
    texts = [str(name) for name in names]
    if twice := [name for name in texts if texts.count(name) > 1]:
        raise ValueError(f"{printable(folder)} has two classes named {twice[0]!r}")
    return tuple(texts)


def _image_folders(folder: Path, description: dict[str, Any]) -> dict[Side | None, Path]:
    found: dict[Side | None, Path] = {}
    for side, keys in _KEYS.items():
        candidates = [place for key in keys if (place := _named_folder(folder, description, key))]
        candidates += [folder / place for key in keys for place in (f"images/{key}", f"{key}/images")]
        existing = next((place for place in candidates if place.is_dir()), None)
        if existing:
            found[side] = existing
    if set(found) == set(_KEYS):
        return found
    if found:
        missing = ", ".join(sorted(set(_KEYS) - {side for side in found if side}))
        raise ValueError(f"{printable(folder)} has no folder of images for {missing}")
    if not (folder / "images").is_dir():
        raise ValueError(
            f"{printable(folder)} has no folder of images; looked for images, images/train and train/images"
        )
    return {None: folder / "images"}


def _named_folder(folder: Path, description: dict[str, Any], key: str) -> Path | None:
    """Where the description says the images are. It is written for the machine of its author: what leads up or starts
    at the root is taken as below `folder`, and nothing else is looked at."""
    value = description.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{key} in the description of {printable(folder)} is no name of a folder")
    parts = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    place = folder.joinpath(*parts)
    if not place.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{key} in the description of {printable(folder)} is {value!r}, which leads out of it")
    return place


def _label_file(folder: Path, image: str) -> Path:
    parts = list(Path(image).relative_to(folder).parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return folder.joinpath(*parts).with_suffix(".txt")


def _read_labels(file: Path, size_px: tuple[int, int], found: BoxedImages) -> list[NamedBox]:
    if not file.is_file():
        return []
    boxes = []
    text = file.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        box = _read_line(line.split(), size_px, found.classes)
        if isinstance(box, str):
            found.left_out.append(f"{printable(file)}, line {number}: {box}")
        else:
            boxes.append(box)
    return boxes


def _read_line(words: list[str], size_px: tuple[int, int], classes: tuple[str, ...]) -> NamedBox | str:
    """The box, or why there is none."""
    try:
        number, *values = map(float, words)
    except ValueError:
        return "it holds something that is no number"
    if not all(map(math.isfinite, (number, *values))):
        return "it holds a number that is not finite"
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        return f"it has {len(words)} numbers; a box has 5, a polygon 7 or more, an odd number"
    if not number.is_integer() or not 0 <= number < len(classes):
        return f"its class is {number:g}, but there are {len(classes)}, counted from 0"
    if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
        return "it has numbers outside 0 to 1; they must be shares of the width and height"
    name, (width, height) = classes[int(number)], size_px
    if len(values) == 4:
        x, y, box_width, box_height = values
        if not (box_width > 0 and box_height > 0):
            return f"its box has no area, width {box_width:g} and height {box_height:g}"
        left, top = (x - box_width / 2) * width, (y - box_height / 2) * height
        return NamedBox(name, (left, top, box_width * width, box_height * height))
    xs, ys = [value * width for value in values[::2]], [value * height for value in values[1::2]]
    if min(max(xs) - min(xs), max(ys) - min(ys)) <= 0:
        return "its polygon has no area"
    points = tuple(value for point in zip(xs, ys, strict=True) for value in point)
    return NamedBox(name, (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)), polygon=points)
