"""Findings about images and boxes in COCO's, VOC's and YOLO's layouts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from rexnet.data.boxes.boxed_images import Skipped
from rexnet.data.boxes.coco import CocoImages, CocoSets, require_objects
from rexnet.data.boxes.coco_annotations import FINDINGS, Finding
from rexnet.data.boxes.coco_json import flatten, read_coco
from rexnet.data.boxes.convert import Layout, read_boxed_images, to_coco
from rexnet.data.checks.examine import ExaminedSplits, Report, class_balance, join_groups, near_equal
from rexnet.data.datasets import Dataset
from rexnet.data.decode import stored_size_px
from rexnet.errors import BadImageError
from rexnet.text import printable, quantity, reason_of

_SMALL_PX, _LARGE_PX = 32, 96  # COCO's limits: an area below 32 x 32 is small, from 96 x 96 on large
_SIZES = ("small", "medium", "large")


@dataclass(frozen=True, kw_only=True)
class BoxReport(Report):
    """Findings about images with boxes. `images` counts those whose files exist, `classes` counts boxes without crowds,
    and `near_equal_classes` are category names."""

    counted: ClassVar[str] = "boxes"

    wrong_size: list[dict[str, Any]]
    """Images whose size differs from that in the annotation file: keys image, width_px, height_px, stated."""
    annotations: dict[str, list[dict[str, Any]]]
    """Cases by kind, see `rexnet.data.boxes.coco_annotations.FINDINGS`: keys split, image, annotation (its id),
    reason."""
    skipped: list[dict[str, Any]]
    """Images of VOC and YOLO whose labels cannot be read, and labels without an image: keys file, objects, reason."""
    different_categories: list[str]
    """Categories that are missing from some splits."""
    duplicates_within_split: list[list[str]]
    without_boxes: dict[str, list[str]]
    """Split -> images without a box; they train as negatives."""
    crowds: dict[str, int]
    """Split -> number of crowds, which are not trained on."""
    box_sizes: dict[str, dict[str, dict[str, int]]]
    """Split -> class -> number of small, medium and large boxes."""

    def own_problems(self) -> dict[str, list[str]]:
        found = {
            "size differs from the annotation file's": [
                f"{row['image']}: {row['width_px']} x {row['height_px']}, stated {row['stated']}"
                for row in self.wrong_size
            ],
            "category missing in a split": self.different_categories,
            "same pixels within a split": join_groups(self.duplicates_within_split),
            "labels that cannot be used (image skipped)": [
                f"{row['file']}: {row['reason']} (objects: {row['objects']})" for row in self.skipped
            ],
        }
        for kind, cases in self.annotations.items():
            found[f"{kind} ({FINDINGS[kind]})"] = [
                f"{case['split']}: {Finding(kind, case['image'], case['annotation'], case['reason'])}" for case in cases
            ]
        return found


class _Data(NamedTuple):
    """Images and findings, the latter with the name of their split."""

    splits: dict[str, CocoImages]
    findings: list[tuple[str, Finding]]
    skipped: list[Skipped]
    notes: list[str]
    refused: list[str]


def check_coco(dataset: Dataset, *, min_size_px: int | None, workers: int) -> BoxReport:
    """Check a folder in COCO's layout. Raise ValueError as `rexnet.data.boxes.coco_json.read_coco` does."""
    data = _Data({}, [], [], [], [])
    for split, annotation_file in dataset.annotation_files.items():
        content, found = read_coco(annotation_file)
        data.splits[split] = CocoImages(content, found)
        data.findings.extend((split, finding) for finding in found)
    try:
        dataset.for_detection()
    except ValueError as error:
        data.refused.append(reason_of(error))
    return _report(dataset.data, data, min_size_px=min_size_px, workers=workers)


def check_boxed_images(folder: Path, layout: Layout, *, min_size_px: int | None, workers: int) -> BoxReport:
    """Check a folder in VOC's or YOLO's layout, as `rexnet detect convert` would read it, with the same ValueErrors."""
    found = read_boxed_images(folder, layout, workers=workers)
    data = _Data({}, [], found.skipped, found.notes, [])
    root = Path(folder.absolute().anchor)
    for split, images in found.splits.items():
        named = [i._replace(file_name=Path(i.path).absolute().relative_to(root).as_posix()) for i in images]
        if named:
            content, findings = flatten(to_coco(named, found.classes), name=printable(folder), image_folder=str(root))
            data.splits[split or ""] = CocoImages(content, findings)
            data.findings.extend((split or "", finding) for finding in findings)
    everything = next((data.splits[name] for name in ("", "train") if name in data.splits), None)
    try:
        if everything is None:
            raise ValueError(f"{printable(folder)} has no images to train on")
        require_objects(CocoSets(train=everything, val=data.splits.get("val", everything)))
    except ValueError as error:
        data.refused.append(reason_of(error))
    return _report(str(folder), data, min_size_px=min_size_px, workers=workers)


def _report(folder: str, data: _Data, *, min_size_px: int | None, workers: int) -> BoxReport:
    splits, examined = data.splits, ExaminedSplits(data.splits, workers=workers)
    groups = [
        ([examined.name(row) for row in group.tolist()], len(set(examined.split[group])) > 1)
        for group in examined.same_pixels()
    ]
    sizes = {split: _sizes_by_class(images) for split, images in splits.items()}
    classes = {split: {c: sum(row.values()) for c, row in by_class.items()} for split, by_class in sizes.items()}
    without_boxes = {
        split: [printable(images.name(index)) for index in np.flatnonzero(images.num_annotations == 0).tolist()]
        for split, images in splits.items()
    }
    crowds = {split: int(images.iscrowd.sum()) for split, images in splits.items()}
    notes = []
    for split, by_class in sizes.items():
        boxes = ", ".join(f"{sum(row[size] for row in by_class.values()):,} {size}" for size in _SIZES)
        empty = f"{quantity(len(without_boxes[split]), 'image')} without boxes"
        notes.append(f"{split or 'all'}: {boxes} boxes, {crowds[split]:,} of crowds, {empty}")
    return BoxReport(
        **examined.facts(min_size_px),
        data=printable(folder),
        wrong_size=_wrong_sizes(examined, list(splits.values())),
        annotations=_by_kind(data.findings),
        skipped=[{**row._asdict(), "file": printable(row.file)} for row in data.skipped],
        different_categories=_differences(splits),
        duplicates_across_splits=sorted(group for group, across in groups if across),
        duplicates_within_split=sorted(group for group, across in groups if not across),
        without_boxes=without_boxes,
        crowds=crowds,
        classes=classes,
        box_sizes=sizes,
        balance={split: class_balance(by_class) for split, by_class in classes.items()},
        near_equal_classes=near_equal({name for images in splits.values() for name in images.classes}),
        refused=data.refused,
        notes=[*notes, *data.notes],
    )


def _wrong_sizes(examined: ExaminedSplits, splits: Sequence[CocoImages]) -> list[dict[str, Any]]:
    """Return the images whose pixels do not have the stated size, upright or as stored."""
    wrong = []
    for row in np.flatnonzero(examined.readable).tolist():
        split, index = examined.place(row)
        height, width = splits[split].size_px(index)
        upright = (int(examined.found.width_px[row]), int(examined.found.height_px[row]))
        if upright == (width, height):
            continue
        try:
            fits = upright == (height, width) and stored_size_px(splits[split].name(index)) == (width, height)
        except BadImageError:
            fits = False
        if not fits:
            wrong.append({**examined.sized(row), "stated": f"{width} x {height}"})
    return wrong


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
    everywhere = set.intersection(*names.values()) if names else set()
    return [f"{split}/{printable(name)}" for split, found in names.items() for name in sorted(found - everywhere)]


def _sizes_by_class(images: CocoImages) -> dict[str, dict[str, int]]:
    size = (images.area >= _SMALL_PX**2).astype(int) + (images.area >= _LARGE_PX**2)
    counts = np.zeros((len(images.classes), len(_SIZES)), dtype=int)
    single = images.iscrowd == 0
    np.add.at(counts, (images.labels[single] - 1, size[single]), 1)
    rows = zip(images.classes, counts.tolist(), strict=True)
    return {printable(name): dict(zip(_SIZES, row, strict=True)) for name, row in rows}
