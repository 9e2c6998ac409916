"""From what the user names (a folder, `digits`, `torchvision/cifar10`) to labelled images for training and validation.

Class names tie data to weights, never positions: where two sides meet they are matched by name.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from rexnet.data.class_balance import draw_shots
from rexnet.data.datasets.named import (
    describe_split,
    is_named_set,
    load_named_set,
    named_set_is_small,
    stratified_split,
)
from rexnet.data.datasets.packed import is_packed_set, load_packed_set, some_sides_px, split_packed_set
from rexnet.data.decode import has_image_extension, image_files, stored_size_px
from rexnet.data.facts import DataFacts
from rexnet.data.image_set import TRAIN_SIDE, VAL_SIDES, FileImages, ImageSet
from rexnet.data.splits import DrawnSplit, fingerprint
from rexnet.errors import BadImageError
from rexnet.text import plural, printable

logger = logging.getLogger(__name__)

DEFAULT_VAL_FRACTION = 0.2
SMALL_IMAGE_PX = 64
_HEADERS_TO_PEEK_AT = 32


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """Both splits have the same `classes`; `drawn` is the split where it was not the data's own."""

    train: ImageSet
    val: ImageSet
    title: str
    """Name of the dataset, for people."""
    split: str
    """How the splits came about, for people."""
    drawn: DrawnSplit | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def description(self) -> str:
        """Sizes and split in one line."""
        return self._facts().description

    def facts(self) -> DataFacts:
        """Counts, split and fingerprint, for a run or a search to note."""
        both = f"{fingerprint(self.train)} {fingerprint(self.val)}"
        return replace(self._facts(), fingerprint=hashlib.sha256(both.encode()).hexdigest())

    def _facts(self) -> DataFacts:
        return DataFacts(
            title=self.title,
            train_images=len(self.train),
            val_images=len(self.val),
            classes=self.classes,
            split=self.split,
            val_fraction=self.drawn and self.drawn.val_fraction,
            split_seed=self.drawn and self.drawn.seed,
        )


def load_image_sets(
    data: str | Path, *, val_fraction: float | None = None, seed: int = 0, shots: int | None = None
) -> ImageSets:
    """Training and validation images of `data`:

    - `digits`: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; always the same fifth is held back. (A folder of
      that name is ./digits.)
    - `torchvision/NAME`: a data set of torchvision with its own split, in torch.hub's folder, downloaded if missing.
    - a folder with train/ and val/ (or valid/, validation/, test/; the first of these counts), each with a folder per
      class, or a single folder of class folders: then `val_fraction` (default 0.2) of each class, drawn by `seed`, is
      held back, at least one image of each; a class with a single image keeps it for training.
    - a folder of tars, or its URL, and `hfds/NAME`: see `shards` and `hugging_face` beside this file; split
      like a folder where they have no split.

    `shots` leaves so many images of each class to train on, drawn by `seed`; what is held back stays the same. Class
    folders may be nested (what is below one is of that class) or linked. Names that start with a dot and files without
    an image extension are left out. Classes are in plain sorted order of their names ("10" before "2").

    Raises ValueError for data that does not exist or has no class folders, a class without images, fewer than two
    classes, and a class that is missing on one side.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}, but must be above 0 and below 1")
    fraction, whole, sides = val_fraction or DEFAULT_VAL_FRACTION, None, "its own split"
    if is_named_set(data):
        title, sides = str(data), describe_split(str(data))
        train, val = load_named_set(str(data))
    elif is_packed_set(data):
        packed = load_packed_set(data)
        title, sides, whole = packed.title, packed.sides, packed.train if packed.val is None else None
        train, val = split_packed_set(packed, fraction, seed)
    else:
        root = _existing_folder(data)
        title, val_folder = printable(root.resolve().name), _val_folder(root)
        if val_folder:
            sides = f"{TRAIN_SIDE}/, {val_folder.name}/"
            train, val = _two_folders(root / TRAIN_SIDE, val_folder)
        else:
            whole = _whole_folder(root / TRAIN_SIDE if (root / TRAIN_SIDE).is_dir() else root)
            train, val = (whole.subset(part) for part in stratified_split(whole.targets, fraction, seed))
    drawn = None
    if whole is not None:
        drawn = DrawnSplit(val_fraction=fraction, seed=seed, fingerprint=fingerprint(whole))
    elif val_fraction is not None:
        logger.warning("val_fraction %g has no effect: %s comes with its own split", val_fraction, printable(data))
    split = drawn.words if drawn else sides
    if shots is not None:
        train = draw_shots(train, shots, seed)
        few = "" if len(train) == shots * len(train.classes) else "at most "
        split = f"{split}; {few}{shots} of each class to train on, seed {seed}"
    return ImageSets(train=train, val=val, title=title, split=split, drawn=drawn)


def load_labelled_images(
    data: str | Path,
    classes: Sequence[str],
    *,
    split: Literal["train", "val"] = "val",
    drawn: DrawnSplit | None = None,
) -> ImageSet:
    """Images to measure a model on that knows `classes`; targets index `classes`, matched by name.

    `data` as for `load_image_sets`, of which one side is taken. Data without a split of its own is divided as `drawn`
    says where it is the very set that was drawn from, and taken whole otherwise; either is said. Classes without images
    are fine here, see `ImageSet.missing_classes`. Raises ValueError for a class that the model does not know, and where
    there are no images at all.
    """
    if is_named_set(data):
        train, val = load_named_set(str(data))
        found = train if split == "train" else val
    elif is_packed_set(data):
        packed = load_packed_set(data)
        whole = packed.train if packed.val is None else None
        found = packed.train if split == "train" else packed.val
        if whole is not None:
            found = _drawn_side(whole, drawn, split) or _told_whole(whole, packed.title)
        if found is None:
            raise ValueError(f"{packed.title} has no images to train on, only {packed.sides}")
    else:
        found = _labelled_folder(_existing_folder(data), split, drawn)
    unknown = sorted(set(found.classes) - set(classes))
    if unknown:
        raise ValueError(f"{printable(data)} has classes that the model does not know: {_some(unknown)}")
    if not len(found):
        raise ValueError(f"the class folders of {printable(data)} hold no images")
    return found.with_classes(classes)


def _labelled_folder(root: Path, split: Literal["train", "val"], drawn: DrawnSplit | None) -> ImageSet:
    train_folder = root / TRAIN_SIDE if (root / TRAIN_SIDE).is_dir() else None
    val_folder = _val_folder(root)
    chosen = train_folder if split == "train" else val_folder
    folder = chosen or train_folder or root
    by_class = _class_files(folder)
    if empty := [name for name, paths in by_class.items() if not paths]:
        logger.warning("%s: left out classes without images: %s", printable(folder), _some(empty))
    images = _file_images({name: paths for name, paths in by_class.items() if paths})
    if not val_folder and (side := _drawn_side(images, drawn, split)):
        return side
    if train_folder and not chosen:
        other = f"none of {_some(VAL_SIDES)}: name the folder to measure on"
        raise ValueError(f"{printable(root)} has {TRAIN_SIDE}/ but {other}")
    return images if chosen else _told_whole(images, root)


def _drawn_side(images: ImageSet, drawn: DrawnSplit | None, split: Literal["train", "val"]) -> ImageSet | None:
    """The side of `images` that `drawn` gave them; None where it was drawn from other images."""
    if drawn is None or not drawn.fits(images):
        return None
    train, val = stratified_split(images.targets, drawn.val_fraction, drawn.seed)
    chosen = train if split == "train" else val
    what = "left to train on" if split == "train" else "held back"
    text = "the split of the training is repeated: the %d of %d images that were %s are taken (%s)"
    logger.info(text, len(chosen), len(images), what, drawn.words)
    return images.subset(chosen)


def _told_whole(images: ImageSet, data: str | Path) -> ImageSet:
    text = "%s has no split of its own: all of it is measured, whatever was trained on"
    logger.warning(text, printable(data))
    return images


def small_images(data: str | Path) -> bool:
    """Whether the longer sides of up to 32 images, read from their headers, have a median of at most 64 pixels.
    Raises ValueError for data that does not exist."""
    if is_named_set(data):
        return named_set_is_small(str(data))
    if is_packed_set(data):
        sides_px = some_sides_px(load_packed_set(data), _HEADERS_TO_PEEK_AT)
    else:
        files = image_files(_existing_folder(data))
        sides_px = []
        for file in files[:: max(1, len(files) // _HEADERS_TO_PEEK_AT)][:_HEADERS_TO_PEEK_AT]:
            try:
                sides_px.append(max(stored_size_px(file)))
            except BadImageError:
                continue
    return bool(sides_px) and float(np.median(sides_px)) <= SMALL_IMAGE_PX


def _existing_folder(data: str | Path) -> Path:
    folder = Path(data)
    if folder.is_dir():
        return folder
    state = "is a file" if folder.exists() else "does not exist"
    raise ValueError(
        f"{printable(data)} {state}: give a folder with a folder of images per class or with tars, digits, "
        "torchvision/cifar10, or hfds/NAME"
    )


def _val_folder(root: Path) -> Path | None:
    return next((root / name for name in VAL_SIDES if (root / name).is_dir()), None)


def _two_folders(train_folder: Path, val_folder: Path) -> tuple[ImageSet, ImageSet]:
    if not train_folder.is_dir():
        raise ValueError(f"{printable(train_folder.parent)} has {val_folder.name}/ but no {TRAIN_SIDE}/")
    sides = [_non_empty_class_files(folder) for folder in (train_folder, val_folder)]
    for here, there, folder in ((0, 1, val_folder), (1, 0, train_folder)):
        missing = sorted(set(sides[here]) - set(sides[there]))
        if missing:
            one = "class" if len(missing) == 1 else "classes"
            raise ValueError(f"{printable(folder)} lacks the {one} {_some(missing)}, which the other side has")
    train, val = (_file_images(by_class) for by_class in sides)
    return train, val


def _whole_folder(folder: Path) -> ImageSet:
    """The images of the class folders, of which some can be held back."""
    by_class = _non_empty_class_files(folder)
    single = [name for name, paths in by_class.items() if len(paths) == 1]
    if len(single) == len(by_class):
        raise ValueError(f"no class in {printable(folder)} has two images, so none can be held back for validation")
    if single:
        logger.warning("classes with a single image, which is trained on but never validated: %s", _some(single))
    return _file_images(by_class)


def _non_empty_class_files(folder: Path) -> dict[str, list[str]]:
    by_class = _class_files(folder)
    empty = [name for name, paths in by_class.items() if not paths]
    if empty:
        text = f"class without images in {printable(folder)}: {_some(empty)}"
        raise ValueError(f"{text}; put images into the folders, or remove them")
    inner = {name: _inner_folders(os.path.join(folder, name), paths) for name, paths in by_class.items()}
    if len(by_class) < 2:
        found = _some(*inner.values())
        hint = f"; if {found} in it are the classes, move them one level up" if found else ""
        raise ValueError(f"{printable(folder)} has one class folder, {_some(by_class)}: two or more are needed{hint}")
    if all(inner.values()) and (merged := [name for name, names in inner.items() if len(names) > 1]):
        text = "%s: no class folder holds images itself; the sub-folders of each count as one class: %s"
        logger.warning(text, printable(folder), _some(f"{name} ({_some(inner[name])})" for name in merged))
    return by_class


def _inner_folders(class_folder: str, paths: Sequence[str]) -> list[str]:
    """The folders in a class folder that hold its images; none where an image lies in the class folder itself."""
    parts = (path[len(class_folder) + 1 :].partition(os.sep) for path in paths)
    names: dict[str, None] = {}
    for name, deeper, _ in parts:
        if not deeper:
            return []
        names[name] = None
    return list(names)


def _class_files(folder: Path) -> dict[str, list[str]]:
    """Class name -> image paths, both sorted."""
    by_class: dict[str, list[str]] = {}
    loose: list[str] = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            files = image_files(path)
            if files or not has_image_extension(name):  # an empty folder called x.jpg is nobody's class
                by_class[name] = files
        elif has_image_extension(name):
            loose.append(name)
        elif not os.path.exists(path):
            raise ValueError(f"{printable(path)} is a link to a folder that does not exist; mend or remove it")
    images = plural(len(loose), "image")
    if not by_class:
        content = f"{len(loose):,} {images} but " if loose else ""
        raise ValueError(f"{printable(folder)} holds {content}no class folders: put the images of each class in one")
    if loose:
        left_out = "is left out" if len(loose) == 1 else "are left out"
        logger.warning("%s: %d %s outside the class folders %s", printable(folder), len(loose), images, left_out)
    return by_class


def _flatten(by_class: Mapping[str, Sequence[str]]) -> tuple[list[str], np.ndarray]:
    paths = [path for files in by_class.values() for path in files]
    counts = np.array([len(files) for files in by_class.values()], dtype=np.int64)
    return paths, np.repeat(np.arange(len(by_class)), counts)


def _file_images(by_class: Mapping[str, Sequence[str]]) -> FileImages:
    paths, targets = _flatten(by_class)
    return FileImages(paths, targets, tuple(by_class))


def _some(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    shown = [printable(name) for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
