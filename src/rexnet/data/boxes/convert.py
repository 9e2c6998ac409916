"""Conversion of other annotation formats to COCO's layout, which detectors are trained on."""

import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from rexnet.data.boxes.boxed_images import BoxedImage, BoxedImages, Skipped, Split
from rexnet.data.boxes.coco import find_annotation_files
from rexnet.data.boxes.voc import NEEDED, is_voc, read_voc
from rexnet.data.boxes.yolo import DESCRIPTIONS, is_yolo, read_yolo
from rexnet.errors import require, require_at_least
from rexnet.files import check_new_folder, check_outside, check_parent, read_text, write_whole
from rexnet.options import Readers, positional
from rexnet.processes import usable_cpus
from rexnet.text import csv_text, printable

logger = logging.getLogger(__name__)

Layout = Literal["voc", "yolo"]
_DEFAULT_VAL_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert data with boxes from the layout of Pascal VOC or YOLO into a new folder in COCO's layout. Exit code 1 if
    more than a tenth of the images had to be skipped."""

    data: Annotated[str, positional("DATA")]
    """A folder with XML files of VOC, in Annotations/ or beside the images, or with data.yaml or classes.txt (YOLO)."""
    output: Annotated[str, positional("OUTPUT")]
    """A new or empty folder. Images are hard-linked, or copied to another disk."""
    format: Literal["auto", "voc", "yolo"] = "auto"
    """Layout of the data; auto: detected from its files."""
    val_fraction: float | None = None
    """Fraction of the training images to validate on if the data has no validation split; None: a fifth."""
    seed: int = 0
    """Seed of the random validation split."""
    workers: Readers = None

    def __post_init__(self) -> None:
        require_at_least(self, 0, "seed", "workers")
        fraction = self.val_fraction
        require(fraction is None or 0 < fraction < 1, "val_fraction", fraction, "above 0 and below 1, or None")


class Converted(NamedTuple):
    """Result of a conversion; `images` and `boxes` by split."""

    images: dict[str, int]
    boxes: dict[str, int]
    classes: tuple[str, ...]
    skipped: list[Skipped]

    @property
    def skipped_fraction(self) -> float:
        return len(self.skipped) / (len(self.skipped) + sum(self.images.values()))


def convert_data(config: ConvertConfig) -> Converted:
    """Write OUTPUT/annotations/instances_{train,val}.json, OUTPUT/train and OUTPUT/val, and the same for test if the
    data has it; category ids are 1 to K in the order of the classes (VOC: of their names).

    Skipped images are listed in OUTPUT/skipped.csv. The source data is not changed, and OUTPUT is written atomically.
    Raise ValueError for an output that is not empty or lies within the data, for data in neither layout, and if there
    are no images to train or validate on.
    """
    source, output = Path(config.data), Path(config.output)
    check_new_folder(output)
    check_parent(output)
    check_outside(output, source)
    layout = None if config.format == "auto" else config.format
    found = read_boxed_images(source, layout, workers=config.workers)
    _draw_val(found, config)
    for note in found.notes:
        logger.warning("%s: %s", printable(source), note)
    for split in ("train", "val"):
        if not found.splits[split]:
            reasons = f"; {len(found.skipped):,} were skipped, such as {found.skipped[0]}" if found.skipped else ""
            raise ValueError(f"{printable(source)} has no images for {split}{reasons}")
    unfinished = output.parent / f".{output.name}.{os.getpid()}.unfinished"
    try:
        (unfinished / "annotations").mkdir(parents=True)
        for split, images in found.splits.items():
            for image in images:
                _place(image, unfinished / str(split))
            content = to_coco(images, found.classes)
            write_whole(unfinished / "annotations" / f"instances_{split}.json", json.dumps(content))
        if found.skipped:
            rows = [(printable(file), objects, reason) for file, objects, reason in found.skipped]
            write_whole(unfinished / "skipped.csv", csv_text([Skipped._fields, *rows]))
        if output.exists():
            output.rmdir()
        os.replace(unfinished, output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return Converted(
        images={str(split): len(images) for split, images in found.splits.items()},
        boxes={str(split): sum(len(image.boxes) for image in images) for split, images in found.splits.items()},
        classes=found.classes,
        skipped=found.skipped,
    )


def find_layout(folder: Path) -> Layout | None:
    """Return the layout of a folder that certainly has boxes; None for one with only a list of class names, or with a
    YAML file without class names, which may belong to another layout."""
    if is_voc(folder):
        return "voc"
    files = (folder / name for name in DESCRIPTIONS if (folder / name).is_file())
    labels = (folder / part / "labels" for part in ("", "train", "valid", "val"))
    described = any(re.search(r"^['\"]?names\b", read_text(file, errors="replace"), re.M) for file in files)
    described = described or (folder / "obj.names").is_file()
    return "yolo" if described or (is_yolo(folder) and any(map(Path.is_dir, labels))) else None


def read_boxed_images(source: Path, layout: Layout | None = None, *, workers: int | None = None) -> BoxedImages:
    """Read a folder in VOC's or YOLO's layout; if `layout` is None, it is detected. Raise ValueError for a folder in
    neither layout."""
    workers = usable_cpus() if workers is None else workers
    if not source.is_dir():
        raise ValueError(f"{printable(source)} is not a folder; allowed: the one that contains the images and labels")
    if layout == "voc" or (layout is None and is_voc(source)):
        found = read_voc(source, workers=workers)
        if layout is None and is_yolo(source):
            found.notes.append("it is in VOC's and in YOLO's layout, and is read as VOC; --format yolo reads the other")
        return found
    if layout == "yolo" or is_yolo(source):
        return read_yolo(source, workers=workers)
    if layout is None and find_annotation_files(source):
        raise ValueError(f"{printable(source)} is already in COCO's layout, which rexnet detect train takes")
    raise ValueError(f"{printable(source)} has neither {NEEDED} (VOC) nor data.yaml or classes.txt (YOLO)")


def _draw_val(found: BoxedImages, config: ConvertConfig) -> None:
    """Draw a validation split from all images of data without splits, or from the training images."""
    if "val" in found.splits:
        allowed = "none: the data comes with its own split"
        require(config.val_fraction is None, "val_fraction", config.val_fraction, allowed)
        return
    images = found.splits.pop(None, None)
    if images is None:
        images = found.splits["train"]
        found.notes.append("there is no validation split, so one is drawn from the training images")
    order = np.random.default_rng(config.seed).permutation(len(images)).tolist()
    chosen = set(order[: max(1, round(len(images) * (config.val_fraction or _DEFAULT_VAL_FRACTION)))])
    divided: dict[Split | None, list[BoxedImage]] = {
        "train": [image for place, image in enumerate(images) if place not in chosen],
        "val": [image for place, image in enumerate(images) if place in chosen],
    }
    found.splits = found.splits | divided


def to_coco(images: Sequence[BoxedImage], classes: Sequence[str]) -> dict[str, Any]:
    """Return the content of a COCO annotation file."""
    category_of = {name: number for number, name in enumerate(classes, start=1)}
    entries, annotations = [], []
    for number, image in enumerate(images, start=1):
        width_px, height_px = image.size_px
        entries.append({"id": number, "file_name": image.file_name, "width": width_px, "height": height_px})
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
    return {"images": entries, "annotations": annotations, "categories": categories}


def _place(image: BoxedImage, folder: Path) -> None:
    target = folder / image.file_name
    target.parent.mkdir(parents=True, exist_ok=True)
    source = os.path.realpath(image.path)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def _polygon_area(points: tuple[float, ...]) -> float:
    x, y = np.array(points[::2]), np.array(points[1::2])
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
