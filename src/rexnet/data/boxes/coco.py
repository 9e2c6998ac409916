"""Images with boxes and masks in COCO's layout."""

import copy
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from PIL import Image

from rexnet.data.boxes.boxed_images import MOST_SKIPPED, SPLIT_FOLDERS, Split
from rexnet.data.boxes.coco_annotations import FINDINGS, LOST_IMAGES, Finding, count_findings
from rexnet.data.boxes.coco_json import CocoContent, read_coco
from rexnet.data.decode import open_image
from rexnet.errors import BadImageError
from rexnet.text import normal_name, printable, some_names

logger = logging.getLogger(__name__)


@final
class CocoImages:
    """Images with their objects. Label i + 1 is `classes[i]`, with the category id `category_ids[i]` of the file; 0 is
    the background. All arrays are flat, so neither pickling the set for workers nor forking copies objects. `counts`:
    faults of the file by kind, see `rexnet.data.boxes.coco_annotations.FINDINGS`; `skipped`: images skipped because of
    them. `has_masks`: whether any object that is not a crowd has an outline.
    """

    def __init__(self, content: CocoContent, findings: Sequence[Finding]):
        self.classes, self.category_ids = content.classes, content.category_ids
        self.image_ids = content.image_ids
        self.width_px, self.height_px = content.width_px, content.height_px
        self.counts = count_findings(findings)
        self.skipped = [os.path.join(content.image_folder, f.image) for f in findings if f.kind in LOST_IMAGES]
        self.has_masks = content.has_masks
        # Of all N objects, by image: labels int32 from 1, iscrowd uint8, area float64 in pixels.
        self.labels, self.iscrowd, self.area = content.labels, content.iscrowd, content.area
        self._content = content

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_annotations(self) -> np.ndarray:
        """Objects and crowds of each image, int64 (I,)."""
        return np.diff(self._content.first)

    @property
    def num_objects(self) -> np.ndarray:
        """Objects of each image that are trained on and scored, without crowds, int64 (I,)."""
        before = np.concatenate([[0], np.cumsum(self.iscrowd == 0)])
        return np.diff(before[self._content.first])

    @property
    def empty_classes(self) -> list[str]:
        """Classes without an object."""
        counts = np.bincount(self.labels[self.iscrowd == 0], minlength=len(self.classes) + 1)
        return [self.classes[place] for place in np.flatnonzero(counts[1:] == 0)]

    def name(self, index: int) -> str:
        """Return the path of the image's file."""
        return os.path.join(self._content.image_folder, self._content.names[index])

    source = name

    def size_px(self, index: int) -> tuple[int, int]:
        """Return (height, width) as the annotation file states them."""
        return int(self.height_px[index]), int(self.width_px[index])

    def load(self, index: int) -> Image.Image:
        """Return the image in mode RGB, in the orientation that the boxes refer to: upright, unless only the pixels as
        stored have the stated size. Raise BadImageError, also if neither orientation has that size."""
        stated = self.size_px(index)[::-1]
        image = open_image(self.name(index))
        if image.size == stated:
            return image
        width, height = image.size
        if image.size == stated[::-1]:
            image = open_image(self.name(index), upright=False)
            if image.size == stated:
                return image
        reason = f"it has {width} x {height} px, but the annotation file states {stated[0]} x {stated[1]}"
        raise BadImageError(self.name(index), reason)

    def target(self, index: int) -> dict[str, Any]:
        """Return the objects of an image, crowds among them, in numpy arrays: boxes float32 (N, 4) as x0 y0 x1 y1 px
        within the image, labels int64, iscrowd int64, area float32 (px, of the outline if the file states it) and
        annotation_ids int64 (N,), -1 if the file has none; `segments`, a list of outlines, see `Segments.as_coco`."""
        content, rows = self._content, self._rows(index)
        height, width = self.size_px(index)
        x, y, box_width, box_height = content.boxes[rows].T
        edges = (x.clip(0), y.clip(0), (x + box_width).clip(max=width), (y + box_height).clip(max=height))
        return {
            "boxes": np.stack(edges, axis=1).astype(np.float32),
            "labels": self.labels[rows].astype(np.int64),
            "iscrowd": self.iscrowd[rows].astype(np.int64),
            "area": self.area[rows].astype(np.float32),
            "annotation_ids": content.annotation_ids[rows],
            "segments": [content.segments.as_coco(row, height, width) for row in range(rows.start, rows.stop)],
        }

    def masks(self, index: int) -> np.ndarray:
        """Return masks, uint8 (N, H, W), 1 on the object, in the order of `target`; all 0 for an object without an
        outline. Raise ValueError if the package that fills polygons is not installed."""
        rows, size = self._rows(index), self.size_px(index)
        masks = np.zeros((rows.stop - rows.start, *size), dtype=np.uint8)
        for place, row in enumerate(range(rows.start, rows.stop)):
            masks[place] = self._content.segments.mask(row, *size)
        return masks

    def to_coco(self) -> dict[str, Any]:
        """Return images, categories and annotations as in a COCO file, without skipped entries: the ground truth to
        score detections against. Boxes that exceed the image only by a rounding error are kept as in the file."""
        content = self._content
        images = [
            {"id": int(self.image_ids[i]), "file_name": content.names[i], "width": width, "height": height}
            for i, (height, width) in enumerate(map(self.size_px, range(len(self))))
        ]
        image_of = np.repeat(np.arange(len(self)), self.num_annotations)
        annotations = []
        for row, image in enumerate(image_of.tolist()):
            annotation = {
                "id": row + 1,  # pycocotools takes 0 for "no match"
                "image_id": int(self.image_ids[image]),
                "category_id": int(self.category_ids[self.labels[row] - 1]),
                "bbox": content.boxes[row].tolist(),
                "area": float(self.area[row]),
                "iscrowd": int(self.iscrowd[row]),
            }
            if self.has_masks:
                annotation["segmentation"] = content.segments.as_coco(row, *self.size_px(image))
            annotations.append(annotation)
        categories = [
            {"id": int(number), "name": name} for number, name in zip(self.category_ids, self.classes, strict=True)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

    def with_classes(self, classes: Sequence[str]) -> Self:
        """Return the same images with labels that index `classes`, matched by name, and this file's category ids.
        Raise ValueError if the class names differ."""
        position = {normal_name(name): place for place, name in enumerate(classes)}
        if position.keys() != set(self.classes):
            here, there = set(self.classes), set(position)
            differ = [
                f"{kind} {some_names(sorted(names))}"
                for kind, names in (("only here", here - there), ("missing here", there - here))
                if names
            ]
            raise ValueError(f"the categories of {printable(self._content.image_folder)} differ: {', '.join(differ)}")
        places = np.array([position[name] for name in self.classes], dtype=np.int32)
        other = copy.copy(self)
        other.classes, other.labels = tuple(classes), (places[self.labels - 1] + 1).astype(np.int32)
        other.category_ids = np.empty_like(self.category_ids)
        other.category_ids[places] = self.category_ids
        return other

    def _rows(self, index: int) -> slice:
        return slice(int(self._content.first[index]), int(self._content.first[index + 1]))


@dataclass(frozen=True, kw_only=True)
class CocoSets:
    """Training and validation images with the same `classes`; each split maps them to the category ids of its own
    file."""

    train: CocoImages
    val: CocoImages

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes


def load_coco_sets(folder: str | Path) -> CocoSets:
    """Load the training and validation images of a folder in COCO's layout: annotations/instances_train*.json and
    instances_val*.json (or train.json and val.json, or Roboflow's train/ and valid/_annotations.coco.json) with the
    images where `rexnet.data.boxes.named_files.find_image_folder` looks.

    Raise ValueError if one is missing or ambiguous, and for splits with different category names.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{printable(folder)} is not a folder; allowed: one in COCO's layout")
    found = find_annotation_files(folder)
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        if split not in found:
            raise ValueError(
                f"{printable(folder)} has no annotation file for {split}; looked for {', '.join(_patterns(split))} "
                "(rexnet detect convert creates them from Pascal VOC and YOLO)"
            )
    train, val = load_coco_images(found["train"]), load_coco_images(found["val"])
    try:
        return CocoSets(train=train, val=val.with_classes(train.classes))
    except ValueError as error:
        names = " and ".join(printable(found[split]) for split in ("val", "train"))
        raise ValueError(f"{names} do not match: {error}") from error


def load_coco_images(annotation_file: str | Path, image_folder: str | Path | None = None) -> CocoImages:
    """Load one split; if `image_folder` is None, the folder is searched for next to the file. Raise ValueError like
    `rexnet.data.boxes.coco_json.read_coco`. Faults are skipped or corrected, counted in `counts` and logged."""
    images = CocoImages(*read_coco(annotation_file, image_folder))
    if images.counts:
        found = "; ".join(f"{count:,} {kind} ({FINDINGS[kind]})" for kind, count in images.counts.items())
        logger.warning("%s: %s; rexnet data check lists them", printable(annotation_file), found)
    return images


def require_objects(sets: CocoSets) -> None:
    """Raise ValueError if there is no object to train on, and log the classes without any."""
    if not sets.train.num_objects.any():
        crowds = int(sets.train.iscrowd.sum())
        why = f"; its {crowds:,} crowds (iscrowd 1) are not trained on" if crowds else ""
        raise ValueError(f"the training images have no objects{why}; annotate at least one")
    for images, use in ((sets.train, "train on"), (sets.val, "validate on")):
        if names := images.empty_classes:
            count = f"{len(names):,} {'class has' if len(names) == 1 else 'classes have'}"
            logger.warning("%s no object to %s: %s", count, use, some_names(names))


def refuse_lost_images(images: CocoImages) -> None:
    """Raise ValueError if images listed in the annotation file are missing, since a subset would be a different
    benchmark, and if more than a tenth cannot be used."""
    if missing := images.counts.get("missing file", 0):
        raise ValueError(
            f"{missing:,} of {missing + len(images):,} images in the annotation file of {printable(images.name(0))} "
            "are missing; --bad-image skip skips them, rexnet data check lists them"
        )
    lost, total = len(images.skipped), len(images.skipped) + len(images)
    if lost > MOST_SKIPPED * total:
        raise ValueError(
            f"{lost:,} of {total:,} images in the annotation file of {printable(images.name(0))} cannot be used "
            "with their annotations, more than a tenth; --bad-image skip skips them, rexnet data check lists them"
        )


def find_annotation_files(folder: str | Path) -> dict[str, Path]:
    """Return the annotation files of a folder in COCO's layout by split, for those of "train", "val" and "test" that
    exist; CVAT writes Train and Validation. Raise ValueError if several files match a split."""
    found: dict[str, Path] = {}
    for split in SPLIT_FOLDERS:
        either_case = f"[{split[0]}{split[0].upper()}]{split[1:]}"
        for pattern in _patterns(split):
            files = sorted(Path(folder).glob(pattern.replace(split, either_case)))
            if len(files) > 1:
                names = some_names(map(str, files))
                raise ValueError(f"{printable(folder)} has several annotation files for {split}: {names}; keep one")
            if files:
                found[split] = files[0]
                break
    return {} if found.keys() == {"test"} else found


def _patterns(split: Split) -> tuple[str, ...]:
    """Return the patterns of a split's annotation file: first COCO's own, then those of other tools."""
    roboflow = (f"{folder}/_annotations.coco.json" for folder in SPLIT_FOLDERS[split])
    return (
        *(f"annotations/instances_{split}*.json", f"annotations/{split}*.json"),
        *(f"instances_{split}*.json", f"{split}.json", *roboflow),
    )
