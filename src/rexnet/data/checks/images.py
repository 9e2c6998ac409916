"""Findings about labelled images: every image is decoded, and compared with all others by its pixels."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np

from rexnet.data.checks.boxes import CocoCheckReport, check_coco
from rexnet.data.checks.examine import (
    Gathered,
    class_balance,
    default_min_size_px,
    examine,
    near_equal,
    same_pixels,
    size_spread,
)
from rexnet.data.datasets import Dataset, open_dataset
from rexnet.data.datasets.folder import find_class_folders, split_folders
from rexnet.data.decode import image_files
from rexnet.data.image_set import FileImages, ImageSet
from rexnet.errors import require
from rexnet.files import check_output_file
from rexnet.options import positional
from rexnet.processes import usable_cpus
from rexnet.text import printable, reason_of


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Look for images and boxes that training would stumble over, and end with training's own test of the data.

    Exit code 0: nothing found, 1: something found."""

    data: Annotated[str, positional("DATA")]
    """What to check: a folder as for `rexnet train`, anything else that it takes, or a folder in COCO's layout."""
    min_size_px: int | None = None
    """Images with a shorter side below this are tiny; None: a quarter of the median shorter side, at most 32."""
    output: str | None = None
    """Also write the whole report to this JSON file."""
    workers: int | None = None
    """Processes that read images; None: as many as CPUs, 0: none beside the main one."""

    def __post_init__(self) -> None:
        for name, least in (("min_size_px", 1), ("workers", 0)):
            value = getattr(self, name)
            require(value is None or value >= least, name, value, f"{least} or more")


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Findings; every list is whole. Images are called by their paths, or as in the dataset they belong to."""

    counted: ClassVar[str] = "images"
    notes: ClassVar[tuple[str, ...]] = ()

    data: str
    images: int
    unreadable: list[dict[str, str]]
    """Keys image, reason."""
    tiny: list[dict[str, Any]]
    """Keys image, width_px, height_px."""
    wrong_extension: list[dict[str, str]]
    """Keys image, content."""
    outside_classes: list[str]
    """Images in a folder that should hold class folders."""
    duplicates_across_splits: list[list[str]]
    """Groups of images with the same pixels; a group can be in this and in the next list."""
    duplicates_across_classes: list[list[str]]
    duplicates_within_class: list[list[str]]
    empty_classes: dict[str, list[str]]
    """Split -> classes whose folder is there without images."""
    missing_classes: dict[str, list[str]]
    """Split -> classes that only another split has."""
    near_equal_classes: list[list[str]]
    """Groups of class names that differ in case, blanks or Unicode's form only."""
    refused: list[str]
    """Why `rexnet train` would refuse the data, in one sentence; empty where it would not."""
    classes: dict[str, dict[str, int]]
    """Split -> class -> images, unreadable ones among them. The split of a folder without is ""."""
    balance: dict[str, dict[str, float]]
    """Split -> images of its smallest and largest class, and largest / smallest; classes without images left out."""
    size_px: dict[str, dict[str, float]]
    """width, height and shorter_side -> smallest, median and largest."""
    min_size_px: float

    def to_json(self) -> str:
        return json.dumps({"clean": self.clean, **dataclasses.asdict(self)}, indent=2) + "\n"

    @property
    def clean(self) -> bool:
        return not any(self.problems().values())

    def problems(self) -> dict[str, list[str]]:
        """Each kind of problem -> a line per image, group or class."""
        return {
            "cannot be read": [f"{row['image']}: {row['reason']}" for row in self.unreadable],
            f"shorter side below {self.min_size_px:g} px": [
                f"{row['image']}: {row['width_px']} x {row['height_px']}" for row in self.tiny
            ],
            "extension of another format": [f"{row['image']}: {row['content']}" for row in self.wrong_extension],
            "outside class folders": self.outside_classes,
            "same pixels in two splits": [" = ".join(group) for group in self.duplicates_across_splits],
            "same pixels in two classes": [" = ".join(group) for group in self.duplicates_across_classes],
            "same pixels within a class": [" = ".join(group) for group in self.duplicates_within_class],
            "class without images": _by_split(self.empty_classes),
            "class missing in a split": _by_split(self.missing_classes),
            "class names that are almost equal": [" = ".join(map(repr, group)) for group in self.near_equal_classes],
            "rexnet train would refuse it": self.refused,
        }


def check(config: CheckConfig) -> CheckReport | CocoCheckReport:
    """Read every image of `config.data`, and of a folder in COCO's layout the annotations too. Raises ValueError for
    data that does not exist or holds no images at all."""
    if config.output is not None:
        check_output_file(config.output)
    workers = usable_cpus() if config.workers is None else config.workers
    dataset = open_dataset(config.data)
    if dataset.annotation_files:
        return check_coco(dataset, min_size_px=config.min_size_px, workers=workers)
    splits, outside = _find(dataset)
    count = sum(len(split.images) for split in splits)
    if not count and not outside:
        raise ValueError(f"{printable(config.data)} holds no images")
    gathered = Gathered(count)
    for split in splits:
        for examined in examine(split.images, workers=workers, label=split.name or "checking"):
            gathered.add(examined)
    report = _report(config, splits, outside=outside, found=gathered, refused=_refusal(dataset))
    elsewhere = _unreadable_elsewhere(dataset, splits, workers=workers)
    return dataclasses.replace(report, unreadable=report.unreadable + elsewhere)


def _unreadable_elsewhere(dataset: Dataset, splits: Sequence["_Split"], *, workers: int) -> list[dict[str, str]]:
    """Return the unreadable images of a folder that are in no class of a split, which `rexnet predict` would read."""
    if dataset.kind != "folder":
        return []
    known = {split.images.name(index) for split in splits for index in range(len(split.images))}
    files = [file for file in image_files(dataset.data) if file not in known]
    found = Gathered(len(files))
    for examined in examine(FileImages(files, np.zeros(len(files)), [""]), workers=workers, label="other images"):
        found.add(examined)
    return [{"image": printable(files[row]), "reason": reason} for row, reason in sorted(found.reasons.items())]


def _refusal(dataset: Dataset) -> list[str]:
    try:
        dataset.for_training()
    except ValueError as error:
        return [reason_of(error)]
    return []


class _Split(NamedTuple):
    """`present`: the classes it has, if only as an empty folder."""

    name: str
    images: ImageSet
    present: frozenset[str]


def _find(dataset: Dataset) -> tuple[list[_Split], list[str]]:
    """The splits of the data, and the images of a folder that are in no class folder."""
    if dataset.kind == "folder":
        found = {name: find_class_folders(folder) for name, folder in split_folders(dataset.data).items()}
        splits = [_Split(name, folders.images, frozenset(folders.by_class)) for name, folders in found.items()]
        return splits, [path for folders in found.values() for path in folders.outside]
    chosen = {"train": dataset.train, "val": dataset.val}
    images = {name: split.images for name, split in chosen.items() if split}
    return [_Split(name, i, frozenset(i.classes) - set(i.missing_classes)) for name, i in images.items()], []


def _report(
    config: CheckConfig, splits: Sequence[_Split], *, outside: list[str], found: Gathered, refused: list[str]
) -> CheckReport:
    starts = np.cumsum([0, *(len(split.images) for split in splits)])

    def name(row: int) -> str:
        side = int(np.searchsorted(starts, row, side="right")) - 1
        return printable(splits[side].images.name(row - int(starts[side])))

    readable = found.width_px > 0
    shorter = np.minimum(found.width_px, found.height_px)
    limit = config.min_size_px or default_min_size_px(shorter[readable])
    tiny = np.flatnonzero(readable & (shorter < limit)).tolist()
    across_splits, across_classes, within = _duplicates(splits, found, name=name)
    everywhere = frozenset().union(*(split.present for split in splits))
    counts = {split.name: _count_classes(split.images) for split in splits}
    return CheckReport(
        data=config.data,
        images=len(readable),
        unreadable=[{"image": name(row), "reason": reason} for row, reason in sorted(found.reasons.items())],
        tiny=[
            {"image": name(row), "width_px": int(found.width_px[row]), "height_px": int(found.height_px[row])}
            for row in tiny
        ],
        wrong_extension=[{"image": name(row), "content": what} for row, what in sorted(found.contents.items())],
        outside_classes=[printable(path) for path in outside],
        duplicates_across_splits=across_splits,
        duplicates_across_classes=across_classes,
        duplicates_within_class=within,
        empty_classes={s.name: _named(s.present & set(s.images.missing_classes)) for s in splits},
        missing_classes={s.name: _named(everywhere - s.present) for s in splits},
        near_equal_classes=near_equal(everywhere),
        refused=refused,
        classes={side: {printable(n): count for n, count in by_class.items()} for side, by_class in counts.items()},
        balance={side: class_balance(by_class) for side, by_class in counts.items()},
        size_px={
            what: size_spread(values[readable])
            for what, values in (("width", found.width_px), ("height", found.height_px), ("shorter_side", shorter))
        },
        min_size_px=limit,
    )


def _duplicates(splits: Sequence[_Split], found: Gathered, *, name: Callable[[int], str]) -> tuple[list, list, list]:
    """Groups of names with the same pixels: across splits, across classes, and those that are neither."""
    side = np.repeat(np.arange(len(splits)), [len(split.images) for split in splits])
    codes: dict[str, int] = {}
    classes = [np.array([codes.setdefault(n, len(codes)) for n in split.images.classes], int) for split in splits]
    target = np.concatenate([by_name[s.images.targets] for by_name, s in zip(classes, splits, strict=True)])
    across_splits, across_classes, within = [], [], []
    for group in same_pixels(found.digest, found.width_px > 0):
        many_splits, many_classes = len(set(side[group])) > 1, len(set(target[group])) > 1
        for into, belongs in (
            (across_splits, many_splits),
            (across_classes, many_classes),
            (within, not many_splits and not many_classes),
        ):
            if belongs:
                into.append([name(row) for row in group.tolist()])
    return sorted(across_splits), sorted(across_classes), sorted(within)


def _count_classes(images: ImageSet) -> dict[str, int]:
    counts = np.bincount(images.targets, minlength=len(images.classes))
    return dict(zip(images.classes, counts.tolist(), strict=True))


def _named(classes: frozenset[str]) -> list[str]:
    return sorted(map(printable, classes))


def _by_split(classes: dict[str, list[str]]) -> list[str]:
    return [f"{split}/{name}" if split else name for split, names in classes.items() for name in names]
