"""Findings about images and boxes in COCO's layout."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

from rexnet.data.boxes.coco import CocoImages
from rexnet.data.boxes.coco_annotations import FINDINGS, Finding, count_findings
from rexnet.data.boxes.coco_json import read_coco
from rexnet.data.checks.examine import (
    Gathered,
    class_balance,
    default_min_size_px,
    examine,
    near_equal,
    same_pixels,
    size_spread,
)
from rexnet.data.datasets import Dataset
from rexnet.data.decode import stored_size_px
from rexnet.errors import BadImageError
from rexnet.text import printable, reason_of

_SMALL_PX, _LARGE_PX = 32, 96  # COCO's limits: an area below 32 x 32 is small, from 96 x 96 on large
_SIZES = ("small", "medium", "large")


@dataclass(frozen=True, kw_only=True)
class CocoCheckReport:
    """What was found; every list is whole. Images are called by their paths."""

    counted: ClassVar[str] = "boxes"

    data: str
    images: int
    """Those whose files are there."""
    unreadable: list[dict[str, str]]
    """Keys image, reason."""
    wrong_size: list[dict[str, Any]]
    """Images of another size than the annotation file states: keys image, width_px, height_px, stated."""
    tiny: list[dict[str, Any]]
    """Keys image, width_px, height_px."""
    wrong_extension: list[dict[str, str]]
    """Keys image, content."""
    annotations: dict[str, list[dict[str, Any]]]
    """Each kind of `rexnet.data.boxes.coco_annotations.FINDINGS` -> its cases: keys split, image, annotation (its id),
    reason."""
    different_categories: list[str]
    """Categories that only one split has."""
    duplicates_across_splits: list[list[str]]
    """Groups of images with the same pixels."""
    duplicates_within_split: list[list[str]]
    without_boxes: dict[str, list[str]]
    """Split -> images without a box; they train as negatives."""
    crowds: dict[str, int]
    """Split -> boxes of crowds, which are not trained on."""
    classes: dict[str, dict[str, int]]
    """Split -> class -> boxes, crowds left out."""
    box_sizes: dict[str, dict[str, dict[str, int]]]
    """Split -> class -> how many of those boxes are small, medium and large."""
    balance: dict[str, dict[str, float]]
    """Split -> boxes of its smallest and largest class, and largest / smallest; classes without boxes left out."""
    size_px: dict[str, dict[str, float]]
    """width, height and shorter_side -> smallest, median and largest."""
    min_size_px: float
    near_equal_classes: list[list[str]]
    """Groups of category names that differ in case, blanks or Unicode's form only."""
    refused: list[str]
    """Why `rexnet detect train` would refuse the data, in one sentence; empty where it would not."""

    def to_json(self) -> str:
        return json.dumps({"clean": self.clean, **dataclasses.asdict(self)}, indent=2) + "\n"

    @property
    def clean(self) -> bool:
        return not any(self.problems().values())

    def problems(self) -> dict[str, list[str]]:
        """Each kind of problem -> a line per image, annotation or group."""
        found = {
            "cannot be read": [f"{row['image']}: {row['reason']}" for row in self.unreadable],
            "size differs from the annotation file's": [
                f"{row['image']}: {row['width_px']} x {row['height_px']}, stated {row['stated']}"
                for row in self.wrong_size
            ],
            f"shorter side below {self.min_size_px:g} px": [
                f"{row['image']}: {row['width_px']} x {row['height_px']}" for row in self.tiny
            ],
            "extension of another format": [f"{row['image']}: {row['content']}" for row in self.wrong_extension],
            "category of one split only": self.different_categories,
            "same pixels in two splits": [" = ".join(group) for group in self.duplicates_across_splits],
            "same pixels within a split": [" = ".join(group) for group in self.duplicates_within_split],
        }
        found["category names that are almost equal"] = [" = ".join(map(repr, g)) for g in self.near_equal_classes]
        found["rexnet detect train would refuse it"] = self.refused
        for kind, cases in self.annotations.items():
            found[f"{kind} ({FINDINGS[kind]})"] = [f"{case['split']}: {_called(case)}" for case in cases]
        return found

    @property
    def notes(self) -> list[str]:
        """A line for each split: its boxes by size, crowds, and images without boxes."""
        lines = []
        for split, by_class in self.box_sizes.items():
            sizes = [f"{sum(row[size] for row in by_class.values()):,} {size}" for size in _SIZES]
            empty = f"{len(self.without_boxes[split]):,} images without boxes"
            lines.append(f"{split}: {', '.join(sizes)} boxes, {self.crowds[split]:,} of crowds, {empty}")
        return lines


def check_coco(dataset: Dataset, *, min_size_px: int | None, workers: int) -> CocoCheckReport:
    """Check a folder in COCO's layout. Raises ValueError for files that `rexnet.data.boxes.coco_json.read_coco`
    refuses."""
    splits: dict[str, CocoImages] = {}
    findings: list[tuple[str, Finding]] = []
    for split, annotation_file in dataset.annotation_files.items():
        content, found = read_coco(annotation_file)
        splits[split] = CocoImages(content, count_findings(found))
        findings += [(split, finding) for finding in found]
    gathered = Gathered(sum(map(len, splits.values())))
    for split, images in splits.items():
        for examined in examine(images, workers=workers, label=split):
            gathered.add(examined)
    return _report(dataset, splits, findings, gathered, min_size_px)


def _report(
    dataset: Dataset,
    splits: dict[str, CocoImages],
    findings: Sequence[tuple[str, Finding]],
    found: Gathered,
    min_size_px: int | None,
) -> CocoCheckReport:
    places = [(images, index) for images in splits.values() for index in range(len(images))]

    def name(row: int) -> str:
        images, index = places[row]
        return printable(images.name(index))

    readable = found.width_px > 0
    shorter = np.minimum(found.width_px, found.height_px)
    limit = min_size_px or default_min_size_px(shorter[readable])
    side = np.repeat(np.arange(len(splits)), [len(images) for images in splits.values()])
    groups = [
        ([name(row) for row in group.tolist()], len(set(side[group])) > 1)
        for group in same_pixels(found.digest, readable)
    ]
    sizes = {split: _sizes_by_class(images) for split, images in splits.items()}
    classes = {split: {c: sum(row.values()) for c, row in by_class.items()} for split, by_class in sizes.items()}
    return CocoCheckReport(
        data=printable(dataset.data),
        images=len(readable),
        unreadable=[{"image": name(row), "reason": reason} for row, reason in sorted(found.reasons.items())],
        wrong_size=[
            {**_sized(name(row), found, row), "stated": f"{images.width_px[index]} x {images.height_px[index]}"}
            for row, (images, index) in enumerate(places)
            if readable[row] and not _fits(images, index, (int(found.width_px[row]), int(found.height_px[row])))
        ],
        tiny=[_sized(name(row), found, row) for row in np.flatnonzero(readable & (shorter < limit)).tolist()],
        wrong_extension=[{"image": name(row), "content": content} for row, content in sorted(found.contents.items())],
        annotations=_by_kind(findings),
        different_categories=_differences(splits),
        duplicates_across_splits=sorted(group for group, across in groups if across),
        duplicates_within_split=sorted(group for group, across in groups if not across),
        without_boxes={
            split: [printable(images.name(index)) for index in np.flatnonzero(images.num_annotations == 0).tolist()]
            for split, images in splits.items()
        },
        crowds={split: int(images.iscrowd.sum()) for split, images in splits.items()},
        classes=classes,
        box_sizes=sizes,
        balance={split: class_balance(by_class) for split, by_class in classes.items()},
        size_px={
            what: size_spread(values[readable])
            for what, values in (("width", found.width_px), ("height", found.height_px), ("shorter_side", shorter))
        },
        min_size_px=limit,
        near_equal_classes=near_equal({name for images in splits.values() for name in images.classes}),
        refused=_refusal(dataset),
    )


def _refusal(dataset: Dataset) -> list[str]:
    try:
        dataset.for_detection()
    except ValueError as error:
        return [reason_of(error)]
    return []


def _called(case: Mapping[str, Any]) -> str:
    return str(Finding("", case["image"], case["annotation"], case["reason"]))


def _sized(name: str, found: Gathered, row: int) -> dict[str, Any]:
    return {"image": name, "width_px": int(found.width_px[row]), "height_px": int(found.height_px[row])}


def _fits(images: CocoImages, index: int, upright: tuple[int, int]) -> bool:
    """Whether `CocoImages.load` finds pixels of the stated size, upright or as they are stored."""
    stated = (int(images.width_px[index]), int(images.height_px[index]))
    if upright == stated:
        return True
    try:
        return upright == stated[::-1] and stored_size_px(images.name(index)) == stated
    except BadImageError:
        return False


def _by_kind(findings: Sequence[tuple[str, Finding]]) -> dict[str, list[dict[str, Any]]]:
    order = list(FINDINGS)
    ordered = sorted(findings, key=lambda pair: order.index(pair[1].kind))
    return {
        kind: [
            {"split": split, "image": printable(f.image), "annotation": f.annotation, "reason": f.text}
            for split, f in cases
        ]
        for kind, cases in groupby(ordered, key=lambda pair: pair[1].kind)
    }


def _differences(splits: Mapping[str, CocoImages]) -> list[str]:
    names = {split: set(images.classes) for split, images in splits.items()}
    everywhere = set.intersection(*names.values())
    return [f"{split}/{printable(name)}" for split, found in names.items() for name in sorted(found - everywhere)]


def _sizes_by_class(images: CocoImages) -> dict[str, dict[str, int]]:
    size = (images.area >= _SMALL_PX**2).astype(int) + (images.area >= _LARGE_PX**2)
    counts = np.zeros((len(images.classes), len(_SIZES)), dtype=int)
    single = images.iscrowd == 0
    np.add.at(counts, (images.labels[single] - 1, size[single]), 1)
    rows = zip(images.classes, counts.tolist(), strict=True)
    return {printable(name): dict(zip(_SIZES, row, strict=True)) for name, row in rows}
