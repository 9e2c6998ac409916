"""Findings about labelled images: every image is decoded, and its pixels are compared with those of all others."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from rexnet.data.checks.boxes import check_boxed_images, check_coco
from rexnet.data.checks.examine import ExaminedSplits, Report, class_balance, join_groups, near_equal
from rexnet.data.datasets import Dataset, open_dataset
from rexnet.data.datasets.folder import find_class_folders, find_images_beside, split_folders
from rexnet.data.image_files import FoundImages, image_files, list_images
from rexnet.data.image_set import FileImages, ImageSet
from rexnet.errors import require_at_least
from rexnet.files import check_output_file
from rexnet.options import Readers, positional
from rexnet.processes import usable_cpus
from rexnet.text import printable, reason_of


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Find images and boxes that would harm or stop training, and run training's own check of the data. Exit
    code 0: no findings, 1: findings."""

    data: Annotated[str, positional("DATA")]
    """Anything that `rexnet train` takes, or a folder in COCO's, VOC's or YOLO's layout."""
    min_size_px: int | None = None
    """Images whose shorter side is below this are tiny; None: a quarter of the median shorter side, at most 32."""
    output: str | None = None
    """Also write the whole report to this JSON file."""
    workers: Readers = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "min_size_px")
        require_at_least(self, 0, "workers")


@dataclass(frozen=True, kw_only=True)
class CheckReport(Report):
    """Findings about labelled images; `classes` also counts unreadable images. A group of `duplicates_across_splits`
    can be one of `duplicates_across_classes` as well."""

    counted: ClassVar[str] = "images"

    outside_classes: list[str]
    """Images directly in a folder that should contain class folders only."""
    duplicates_across_classes: list[list[str]]
    duplicates_within_class: list[list[str]]
    empty_classes: dict[str, list[str]]
    """Split -> classes whose folder contains no images."""
    missing_classes: dict[str, list[str]]
    """Split -> classes that only other splits have."""

    def own_problems(self) -> dict[str, list[str]]:
        return {
            "outside class folders": self.outside_classes,
            "same pixels in two classes": join_groups(self.duplicates_across_classes),
            "same pixels within a class": join_groups(self.duplicates_within_class),
            "class without images": _by_split(self.empty_classes),
            "class missing in a split": _by_split(self.missing_classes),
        }


def check(config: CheckConfig) -> Report:
    """Read every image of `config.data`, and the annotations of data with boxes. Raise ValueError for data that does
    not exist or contains no images at all."""
    check_output_file(config.output)
    workers = usable_cpus() if config.workers is None else config.workers
    dataset = open_dataset(config.data)
    if dataset.annotation_files:
        return check_coco(dataset, min_size_px=config.min_size_px, workers=workers)
    if dataset.kind in ("voc", "yolo"):
        return check_boxed_images(Path(config.data), dataset.kind, min_size_px=config.min_size_px, workers=workers)
    splits, outside = _find(dataset)
    examined = ExaminedSplits({split.name: split.images for split in splits}, workers=workers)
    elsewhere = list_images(dataset.data) if dataset.kind == "folder" else FoundImages([], [])
    if not len(examined.readable) and not outside and not elsewhere.other:
        raise ValueError(f"{printable(config.data)} contains no images")
    across_splits, across_classes, within = _duplicates(splits, examined)
    everywhere = frozenset().union(*(split.present for split in splits))
    counts = {split.name: _count_classes(split.images) for split in splits}
    facts = examined.facts(config.min_size_px)
    for kind, rows in _faults_elsewhere(elsewhere, splits, workers=workers).items():
        facts[kind] += rows
    return CheckReport(
        **facts,
        data=config.data,
        outside_classes=[printable(path) for path in outside],
        duplicates_across_splits=across_splits,
        duplicates_across_classes=across_classes,
        duplicates_within_class=within,
        empty_classes={s.name: _sorted_names(s.present & set(s.images.missing_classes)) for s in splits},
        missing_classes={s.name: _sorted_names(everywhere - s.present) for s in splits},
        near_equal_classes=near_equal(everywhere),
        refused=_refusal(dataset),
        classes={name: {printable(n): count for n, count in by_class.items()} for name, by_class in counts.items()},
        balance={name: class_balance(by_class) for name, by_class in counts.items()},
        notes=[],
    )


def _faults_elsewhere(
    found: FoundImages, splits: Sequence["_Split"], *, workers: int
) -> dict[str, list[dict[str, str]]]:
    """Return the faulty images outside the classes of the splits, which `rexnet predict` would read, and those with
    unsupported extensions: images that cannot be read, or whose format does not match their extension."""
    known = {split.images.name(index) for split in splits for index in range(len(split.images))}
    files = [file for file in found.files if file not in known] + found.other
    images = FileImages(files, np.zeros(len(files)), [""])
    facts = ExaminedSplits({"other images": images}, workers=workers).facts(None)
    return {kind: facts[kind] for kind in ("unreadable", "wrong_extension")}


def _refusal(dataset: Dataset) -> list[str]:
    try:
        dataset.for_training()
    except ValueError as error:
        return [reason_of(error)]
    return []


class _Split(NamedTuple):
    """A split to check. `present`: the classes it has, including those with an empty folder."""

    name: str
    images: ImageSet
    present: frozenset[str]


def _find(dataset: Dataset) -> tuple[list[_Split], list[str]]:
    """Return the splits of the data, and the images of a folder that are in no class folder."""
    if dataset.kind == "folder":
        found = {name: find_class_folders(folder) for name, folder in split_folders(dataset.data).items()}
        splits = [_Split(name, folders.images, frozenset(folders.by_class)) for name, folders in found.items()]
        beside = [os.path.join(dataset.data, name) for name in find_images_beside(dataset.data, found)]
        outside = [path for folders in found.values() for path in folders.outside]
        return splits, outside + [
            file for path in beside for file in (image_files(path) if os.path.isdir(path) else [path])
        ]
    chosen = {"train": dataset.train, "val": dataset.val}
    images = {name: split.images for name, split in chosen.items() if split}
    return [_Split(name, i, frozenset(i.classes) - set(i.missing_classes)) for name, i in images.items()], []


def _duplicates(splits: Sequence[_Split], examined: ExaminedSplits) -> tuple[list, list, list]:
    """Return groups of names with the same pixels: across splits, across classes, and within a class."""
    codes: dict[str, int] = {}
    classes = [np.array([codes.setdefault(n, len(codes)) for n in split.images.classes], int) for split in splits]
    target = np.concatenate([by_name[s.images.targets] for by_name, s in zip(classes, splits, strict=True)])
    across_splits, across_classes, within = [], [], []
    for group in examined.same_pixels():
        many_splits, many_classes = len(set(examined.split[group])) > 1, len(set(target[group])) > 1
        for into, belongs in (
            (across_splits, many_splits),
            (across_classes, many_classes),
            (within, not many_splits and not many_classes),
        ):
            if belongs:
                into.append([examined.name(row) for row in group.tolist()])
    return sorted(across_splits), sorted(across_classes), sorted(within)


def _count_classes(images: ImageSet) -> dict[str, int]:
    counts = np.bincount(images.targets, minlength=len(images.classes))
    return dict(zip(images.classes, counts.tolist(), strict=True))


def _sorted_names(classes: frozenset[str]) -> list[str]:
    return sorted(map(printable, classes))


def _by_split(classes: dict[str, list[str]]) -> list[str]:
    return [f"{split}/{name}" if split else name for split, names in classes.items() for name in names]
