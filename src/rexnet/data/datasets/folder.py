"""Labelled images in one folder per class."""

import logging
import os
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from rexnet.data.image_files import (
    describe_other,
    has_image_extension,
    holds_images,
    is_hidden,
    is_other_file,
    list_images,
)
from rexnet.data.image_set import FileImages, ImageSet
from rexnet.data.splits import SPLITS
from rexnet.text import normal_name, plural, printable, quantity, some_names

logger = logging.getLogger(__name__)


_LIKE_TRAIN = {"train", "training"}
"""Lower-case names that folders of training images tend to have; only `TRAIN_SPLIT` is read as one."""


class ClassFolders(NamedTuple):
    """Content of a folder. `by_class`: class -> its image files, both sorted; `outside`: images in no class folder;
    `other`: images in unsupported formats; `runs`: names of folders with runs; `faults`: clauses that say why it cannot
    be trained on."""

    by_class: dict[str, list[str]]
    outside: list[str]
    other: list[str]
    runs: list[str]
    faults: list[str]

    @property
    def images(self) -> FileImages:
        counts = [len(paths) for paths in self.by_class.values()]
        paths = [path for paths in self.by_class.values() for path in paths]
        return FileImages(paths, np.repeat(np.arange(len(counts)), counts), tuple(self.by_class))


def split_folders(root: str) -> dict[str, str]:
    """Return the folder of each split; a single split called "" if `root` contains the class folders itself."""
    found = {name: os.path.join(root, name) for name in SPLITS}
    return {name: folder for name, folder in found.items() if os.path.isdir(folder)} or {"": root}


def holds_run(folder: str) -> bool:
    """Return whether this is a run folder."""
    if not os.path.exists(os.path.join(folder, "config.json")):
        return False
    from rexnet.references import holds_settings  # imports torch, which --help must not

    return holds_settings(folder)


def holds_runs(folder: str) -> bool:
    """Return whether this is a run folder, or a folder of run folders without images beside them."""
    if not os.path.isdir(folder) or holds_run(folder):
        return os.path.isdir(folder)
    inside = [os.path.join(folder, name) for name in os.listdir(folder) if not is_hidden(name)]
    folders = [path for path in inside if os.path.isdir(path)]
    return bool(folders) and all(map(holds_run, folders)) and not any(map(has_image_extension, inside))


def find_images_beside(root: str, splits: Collection[str]) -> list[str]:
    """Return the names of images, and of folders with images, beside the folders of the splits."""
    if "" in splits:
        return []
    names = (name for name in sorted(os.listdir(root)) if name not in splits and not is_hidden(name))
    paths = {name: os.path.join(root, name) for name in names}
    return [name for name, path in paths.items() if holds_images(path) and not holds_runs(path)]


def find_class_folders(folder: str) -> ClassFolders:
    """Find the images of each class folder, at any depth; links are followed. Classes are sorted by the Unicode normal
    form of their names ("10" before "2")."""
    by_class: dict[str, list[str]] = {}
    outside: list[str] = []
    other: list[str] = []
    runs: list[str] = []
    faults: list[str] = []
    for name in sorted(os.listdir(folder), key=normal_name):
        path = os.path.join(folder, name)
        if is_hidden(name):
            continue
        if holds_runs(path):
            runs.append(name)
        elif os.path.isdir(path):
            files, unread = list_images(path)
            other += unread
            if not files and has_image_extension(name):  # an empty folder called x.jpg is not a class
                continue
            if normal_name(name) in by_class:
                faults.append(
                    f"has two folders {printable(name)}, which differ only in Unicode normal form; merge them"
                )
            by_class.setdefault(normal_name(name), []).extend(files)
        elif has_image_extension(name):
            outside.append(path)
        elif os.path.isfile(path) and is_other_file(name):
            other.append(path)
        elif not os.path.exists(path):
            faults.append(f"contains {printable(name)}, a link to a folder that does not exist; repair or remove it")
    if not by_class:
        content = f"{quantity(len(outside), 'image')} but " if outside else ""
        faults.append(f"contains {content}no class folders: put the images of each class into one")
    like_splits = {name.casefold() for name in by_class}
    if len(by_class) > 1 and like_splits & _LIKE_TRAIN and like_splits <= {*SPLITS, *_LIKE_TRAIN, "testing"}:
        names = some_names(by_class)
        faults.append(f"contains {names}, which are splits, not classes; rename them to {' and '.join(SPLITS[:2])}")
    return ClassFolders(by_class, outside, other, runs, faults)


def read_class_folders(folder: str) -> FileImages:
    """Read the class folders, which may be empty. Raise ValueError for a folder without any, and for two with
    indistinguishable names."""
    found = find_class_folders(folder)
    if found.other:
        logger.warning("%s: %s", printable(folder), describe_other(found.other))
    if found.runs:
        text = "%s: not read as a class, because it is a run folder of rexnet train: %s"
        logger.warning(text, printable(folder), some_names(found.runs))
    if found.faults:
        raise ValueError(f"{printable(folder)} {found.faults[0]}")
    if count := len(found.outside):
        skipped = "is skipped" if count == 1 else "are skipped"
        text = "%s: %d %s outside the class folders %s"
        logger.warning(text, printable(folder), count, plural(count, "image"), skipped)
    return found.images


def advise_on_nesting(images: ImageSet, folder: str) -> str:
    """Return a clause with the folders that may be meant as classes or splits if all images are in one class folder, at
    any depth; "" if there are none."""
    inside = [os.path.relpath(images.name(index), folder).split(os.sep)[:-1] for index in range(len(images))]
    above = os.path.commonprefix(inside)  # noqa: RUF071 (of lists)
    names = sorted({parts[len(above)] for parts in inside if len(parts) > len(above)})
    if len(names) < 2:
        return ""
    place = os.path.join(folder, *above)
    if SPLITS[0] in names and set(names) <= set(SPLITS):
        return f"; give {printable(place)}, which has {some_names(names)}"
    return f"; if {some_names(names)} in {printable(place)} are the classes, move them into {printable(folder)}"


def nested_folders(images: ImageSet, folder: str) -> dict[str, list[str]]:
    """Return the folders with images in each class folder that contains no image itself."""
    found: dict[str, dict[str, None]] = {name: {} for name in images.classes}
    direct: set[str] = set()
    for index in range(len(images)):
        name, inner, *deeper = os.path.relpath(images.name(index), folder).split(os.sep)
        if deeper:
            found[normal_name(name)][inner] = None
        else:
            direct.add(normal_name(name))
    return {name: list(inner) for name, inner in found.items() if name not in direct}
