"""From other annotation formats to COCO's layout, which is the one that detectors train from."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from rexnet.data.boxes.boxed_images import BoxedImage, BoxedImages, Side
from rexnet.data.boxes.voc import is_voc, read_voc
from rexnet.data.boxes.yolo import is_yolo, read_yolo
from rexnet.errors import require
from rexnet.files import check_new_folder, write_whole
from rexnet.processes import usable_cpus
from rexnet.text import printable

DetectionFormat = Literal["auto", "voc", "yolo"]
_DEFAULT_VAL_FRACTION = 0.2
_SIDES: tuple[Side, ...] = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Writes data with boxes in the layout of Pascal VOC or YOLO into a new folder in COCO's layout."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder with Annotations/ and JPEGImages/ (VOC), or with data.yaml or classes.txt (YOLO)."""
    output: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """A new or empty folder. Images become hard links there, or copies on another disk."""
    format: DetectionFormat = "auto"
    """What the data is; auto: what it looks like."""
    val_fraction: float | None = None
    """Share of the images that is held back where the data has no split of its own; None: a fifth."""
    seed: int = 0
    """Decides which images are held back."""
    workers: int | None = None
    """Processes that read images; None: as many as CPUs, 0: none beside the main one."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "0 or more")
        fraction = self.val_fraction
        require(fraction is None or 0 < fraction < 1, "val_fraction", fraction, "above 0 and below 1")


class Converted(NamedTuple):
    """`images` and `boxes` by side; `left_out` has a line, with its file, for all that could not be used."""

    images: dict[str, int]
    boxes: dict[str, int]
    classes: tuple[str, ...]
    left_out: list[str]


def convert_data(config: ConvertConfig) -> Converted:
    """OUTPUT/annotations/instances_{train,val}.json, OUTPUT/train and OUTPUT/val; category ids are 1 to K in the order
    of the classes (VOC: of their names). The data stays as it is, and OUTPUT appears whole or not at all.

    Raises ValueError for an output that is not empty or lies in the data, for data of neither layout, and for a side
    without images.
    """
    source, output = Path(config.data), Path(config.output)
    check_new_folder(output, outside=source)
    found = _read(source, config)
    _divide(found, config)
    for side in _SIDES:
        if not found.sides[side]:
            raise ValueError(f"{printable(source)} has no images for {side}; {len(found.left_out):,} were left out")
    unfinished = output.parent / f".{output.name}.{os.getpid()}.unfinished"
    try:
        (unfinished / "annotations").mkdir(parents=True)
        for side in _SIDES:
            _write_side(unfinished, side, found)
        if output.exists():
            output.rmdir()
        os.replace(unfinished, output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return Converted(
        images={side: len(found.sides[side]) for side in _SIDES},
        boxes={side: sum(len(image.boxes) for image in found.sides[side]) for side in _SIDES},
        classes=found.classes,
        left_out=found.left_out,
    )


def _read(source: Path, config: ConvertConfig) -> BoxedImages:
    workers = usable_cpus() if config.workers is None else config.workers
    if not source.is_dir():
        raise ValueError(f"{printable(source)} is no folder")
    if config.format == "voc" or (config.format == "auto" and is_voc(source)):
        if not is_voc(source):
            raise ValueError(f"{printable(source)} lacks Annotations/ or JPEGImages/, which VOC's layout has")
        return read_voc(source, workers=workers)
    if config.format == "yolo" or is_yolo(source):
        return read_yolo(source, workers=workers)
    raise ValueError(
        f"{printable(source)} has neither Annotations/ and JPEGImages/ (VOC) nor data.yaml or classes.txt (YOLO)"
    )


def _divide(found: BoxedImages, config: ConvertConfig) -> None:
    whole = found.sides.pop(None, None)
    if whole is None:
        allowed = "none: the data comes with its own split"
        require(config.val_fraction is None, "val_fraction", config.val_fraction, allowed)
        return
    order = np.random.default_rng(config.seed).permutation(len(whole)).tolist()
    held_back = set(order[: max(1, round(len(whole) * (config.val_fraction or _DEFAULT_VAL_FRACTION)))])
    for side in _SIDES:
        is_val = side == "val"
        found.sides[side] = [image for place, image in enumerate(whole) if (place in held_back) == is_val]


def _write_side(output: Path, side: Side, found: BoxedImages) -> None:
    category_of = {name: number for number, name in enumerate(found.classes, start=1)}
    images, annotations = [], []
    for number, image in enumerate(found.sides[side], start=1):
        _place(image, output / side)
        size = {"width": image.width_px, "height": image.height_px}
        images.append({"id": number, "file_name": image.file_name, **size})
        for box in image.boxes:
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": category_of[box.name],
                "bbox": list(box.box),
                "area": box.box[2] * box.box[3],
                "iscrowd": int(box.ignored),
            }
            if box.polygon:
                annotation |= {"segmentation": [list(box.polygon)], "area": _polygon_area(box.polygon)}
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for name, number in category_of.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_whole(output / "annotations" / f"instances_{side}.json", json.dumps(content))


def _place(image: BoxedImage, folder: Path) -> None:
    target = folder / image.file_name
    target.parent.mkdir(parents=True, exist_ok=True)
    source = os.path.realpath(image.path)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _polygon_area(points: tuple[float, ...]) -> float:
    x, y = np.array(points[::2]), np.array(points[1::2])
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
