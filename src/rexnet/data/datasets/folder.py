"""Labelled images in a folder per class."""

import logging
import os
from typing import NamedTuple

import numpy as np

from rexnet.data.decode import has_image_extension, image_files, is_hidden
from rexnet.data.image_set import FileImages, ImageSet
from rexnet.data.splits import SPLITS
from rexnet.text import normal_name, plural, printable

logger = logging.getLogger(__name__)


class ClassFolders(NamedTuple):
    """Content of a folder. `by_class`: class -> its image files, both sorted; `outside`: images in no class folder;
    `faults`: reasons why it cannot be trained on, a clause each."""

    by_class: dict[str, list[str]]
    outside: list[str]
    faults: list[str]

    @property
    def images(self) -> FileImages:
        counts = [len(paths) for paths in self.by_class.values()]
        paths = [path for paths in self.by_class.values() for path in paths]
        return FileImages(paths, np.repeat(np.arange(len(counts)), counts), tuple(self.by_class))


def split_folders(root: str) -> dict[str, str]:
    """Return the folder of each split; one split that is called "" where `root` holds the class folders itself."""
    found = {name: os.path.join(root, name) for name in SPLITS}
    return {name: folder for name, folder in found.items() if os.path.isdir(folder)} or {"": root}


def find_class_folders(folder: str) -> ClassFolders:
    """Find the images of each class folder, at any depth; links are followed. Classes are in plain sorted
    order of their names in Unicode's normal form ("10" before "2")."""
    by_class: dict[str, list[str]] = {}
    outside: list[str] = []
    faults: list[str] = []
    for name in sorted(os.listdir(folder), key=normal_name):
        path = os.path.join(folder, name)
        if is_hidden(name):
            continue
        if os.path.isdir(path):
            files = image_files(path)
            if not files and has_image_extension(name):  # an empty folder called x.jpg is not a class
                continue
            if normal_name(name) in by_class:
                faults.append(f"has two folders {printable(name)}, which differ in Unicode's form only; merge them")
            by_class.setdefault(normal_name(name), []).extend(files)
        elif has_image_extension(name):
            outside.append(path)
        elif not os.path.exists(path):
            faults.append(f"holds {printable(name)}, a link to a folder that does not exist; repair or remove it")
    if not by_class:
        content = f"{len(outside):,} {plural(len(outside), 'image')} but " if outside else ""
        faults.append(f"holds {content}no class folders: put the images of each class in one")
    return ClassFolders(by_class, outside, faults)


def read_class_folders(folder: str) -> FileImages:
    """Read the class folders, which may be empty. Raises ValueError for a folder without any, and for two
    whose names cannot be distinguished."""
    found = find_class_folders(folder)
    if found.faults:
        raise ValueError(f"{printable(folder)} {found.faults[0]}")
    if count := len(found.outside):
        skipped = "is skipped" if count == 1 else "are skipped"
        text = "%s: %d %s outside the class folders %s"
        logger.warning(text, printable(folder), count, plural(count, "image"), skipped)
    return found.images


def nested_folders(images: ImageSet, folder: str) -> dict[str, list[str]]:
    """Return the folders with images in each class folder that holds no image itself."""
    found: dict[str, dict[str, None]] = {name: {} for name in images.classes}
    direct: set[str] = set()
    for index in range(len(images)):
        name, inner, *deeper = os.path.relpath(images.name(index), folder).split(os.sep)
        if deeper:
            found[normal_name(name)][inner] = None
        else:
            direct.add(normal_name(name))
    return {name: list(inner) for name, inner in found.items() if name not in direct}
