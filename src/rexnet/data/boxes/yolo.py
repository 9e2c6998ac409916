"""Reader of data in YOLO's layout: a description of the classes and images, and label files."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rexnet.data.boxes.boxed_images import SPLIT_FOLDERS, BoxedImages, Skipped, Split
from rexnet.data.boxes.named_files import NamedFiles
from rexnet.data.boxes.yolo_labels import YoloLabels, name_the_rest, read_lines
from rexnet.data.image_files import all_images, has_image_extension
from rexnet.files import read_text
from rexnet.text import normal_name, printable, reason_of, some_names

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES = ("classes.txt", "labels/classes.txt", "obj.names")
_TASKS = ("detect", "segment", "pose", "obb")
_CHANGES_LABELS = ("single_cls", "classes", "fraction")  # Ultralytics' keys that merge or drop labels
_ABSENT = ("", "~", "null", "Null", "NULL")


def is_yolo(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*DESCRIPTIONS, *_NAMES))


def read_yolo(folder: Path, *, workers: int) -> BoxedImages:
    """Read images and boxes, with class names from data.yaml (or dataset.yaml) or classes.txt.

    Images are at the paths of the description (folders, files that list images, or lists of both), else in
    images/train, train/images or train and so on, else in images/ or the folder itself without splits. The labels of
    images/a.jpg are labels/a.txt, or a.txt beside it where no folder is named images.

    A line is a class and centre x, centre y, width, height, or the points of a polygon, all as fractions of the width
    and height of the upright image; with `kpt_shape`, a class, a box, and keypoints, which are not used. An image
    without a text file has no boxes. Raise ValueError for a description with missing paths, and for one that changes
    the meaning of labels.
    """
    description = _read_description(folder)
    files = NamedFiles(folder, named_by=f"the description of {printable(folder)} names")
    found = BoxedImages(classes=_class_names(folder, description))
    labels = YoloLabels(files, found.classes, _keypoint_numbers(description))
    by_split = _NamedImages(folder, description, files, found).by_split()
    for split, (root, images) in by_split.items():
        found.read(split, images, labels, root=root, workers=workers)
    names = folder / _NAMES[0]
    if "names" in description and names.is_file() and read_lines(names, errors="replace") != list(found.classes):
        found.notes.append(
            f"{printable(names)} lists other class names or another order than the description; the description is used"
        )
    name_the_rest(files, {image for _, images in by_split.values() for image in images}, found)
    if not any(image.boxes for images in found.splits.values() for image in images):
        found.notes.append("no image has an object; the labels of images/a.jpg are in labels/a.txt")
    found.stand_in_for_val()
    return found


def _read_description(folder: Path) -> dict[str, Any]:
    """Return the description with every value as written, so that `no` is a class, not False; without a description,
    the files train.txt and so on, as lists of images."""
    file = _only_file(folder, DESCRIPTIONS)
    if file is None:
        lists = (name for names in SPLIT_FOLDERS.values() for name in names if (folder / f"{name}.txt").is_file())
        return {name: f"{name}.txt" for name in lists}
    import yaml

    text = read_text(file)
    try:
        tags = (token.value for token in yaml.scan(text, yaml.BaseLoader) if isinstance(token, yaml.TagToken))
        if tag := next(tags, None):
            raise ValueError(f"it has the tag {''.join(filter(None, tag))}")
        root = yaml.compose(text, yaml.BaseLoader)
        if isinstance(root, yaml.MappingNode):
            keys = [key.value for key, _ in root.value if isinstance(key, yaml.ScalarNode)]
            if twice := next((key for key in keys if keys.count(key) > 1), None):
                raise ValueError(f"it has the key {twice!r} twice")
        content = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{printable(file)} is not plain YAML: {' '.join(reason_of(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{printable(file)} contains a {type(content).__name__}; it needs keys such as names")
    task = content.get("task", "detect")
    if task not in _TASKS:
        raise ValueError(f"{printable(file)} has the task {task!r:.40}; allowed: {', '.join(_TASKS)}")
    if key := next((key for key in _CHANGES_LABELS if key in content), None):
        raise ValueError(f"{printable(file)} has {key}, which changes what labels mean; remove it")
    return {key: value for key, value in content.items() if value not in _ABSENT}


def _only_file(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these files, None if there are none. Raise ValueError if the content of another differs."""
    files = [folder / name for name in names if (folder / name).is_file()]
    if other := next((file for file in files[1:] if _lines(file) != _lines(files[0])), None):
        raise ValueError(f"{printable(files[0])} and {printable(other)} differ; keep the one that describes the labels")
    return files[0] if files else None


def _lines(file: Path) -> list[str]:
    """Return the lines without what differs between systems: their ends, trailing spaces and a byte order mark."""
    return [line.rstrip() for line in read_text(file).rstrip().split("\n")]


def _class_names(folder: Path, description: dict[str, Any]) -> tuple[str, ...]:
    names: Any = description.get("names")
    if isinstance(names, dict):
        if sorted(names) != sorted(map(str, range(len(names)))):
            raise ValueError(f"the names of {printable(folder)} must be numbered from 0 without a gap")
        names = [names[str(number)] for number in range(len(names))]
    if names is None:
        file = _only_file(folder, _NAMES)
        if file is None:
            looked = ", ".join((*DESCRIPTIONS, *_NAMES))
            raise ValueError(f"{printable(folder)} has no class names; looked for {looked}")
        names = [line.strip() for line in read_text(file).rstrip().split("\n")]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not any(names):
        raise ValueError(f"{printable(folder)} has no list of class names")
    if "" in names:
        number = names.index("")
        raise ValueError(
            f"{printable(folder)} has no name for class {number}, but for others around it; classes count from 0"
        )
    names = [normal_name(name) for name in names]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{printable(folder)} has two classes named {twice[0]!r}")
    if (count := description.get("nc", str(len(names)))) != str(len(names)):
        raise ValueError(f"{printable(folder)} has nc: {count!r:.40}, but {len(names)} names: {some_names(names)}")
    return tuple(names)


def _keypoint_numbers(description: dict[str, Any]) -> int | None:
    shape = description.get("kpt_shape")
    if shape is None:
        if description.get("task") == "pose":
            raise ValueError(
                "the task is pose, but there is no kpt_shape, the number of keypoints and of their coordinates"
            )
        return None
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, str) and n.isdecimal() for n in shape):
        points, numbers = map(int, shape)
        if points > 0 and numbers in (2, 3):
            return points * numbers
    raise ValueError(f"kpt_shape is {shape!r:.60}; allowed: the number of keypoints, and 2 or 3 numbers for each")


@dataclass(frozen=True)
class _NamedImages:
    """Images by split, from the description or the usual folders. Files in a list that do not exist are skipped."""

    folder: Path
    description: dict[str, Any]
    files: NamedFiles
    found: BoxedImages

    def by_split(self) -> dict[Split | None, tuple[Path, list[str]]]:
        """Return the images of each split, and the folder that their names are relative to."""
        splits: dict[Split | None, tuple[Path, list[str]]] = {}
        base = self.folder / self._root
        for split, names in SPLIT_FOLDERS.items():
            keys = [name for name in names if name in self.description]
            if len(keys) > 1:
                raise ValueError(f"the description of {printable(self.folder)} has {' and '.join(keys)}; keep one")
            places = [base / place for name in names for place in (f"images/{name}", f"{name}/images", name)]
            if keys:
                splits[split] = self._images_of(keys[0], split)
            elif place := next((place for place in places if place.is_dir()), None):
                splits[split] = place, all_images(place)
        if splits and "train" not in splits:
            have = ", ".join(map(str, splits))
            raise ValueError(f"{printable(self.folder)} has no images for train, only for {have}")
        if splits:
            return splits
        place = base / "images" if (base / "images").is_dir() else base
        if place == base and not any(has_image_extension(name) for name in os.listdir(base)):
            looked = "images, images/train, train/images and train"
            raise ValueError(f"{printable(base)} has no folder of images; looked for {looked}")
        return {None: (place, all_images(place))}

    def _images_of(self, key: str, split: Split) -> tuple[Path, list[str]]:
        values = self.description[key]
        values = values if isinstance(values, list) else [values]
        images, place = [], self.folder
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"{key} of {printable(self.folder)} is {value!r:.60}; allowed: folders and files")
            place = self._find((self._root, ""), value)
            if place is None:
                raise ValueError(
                    f"the description of {printable(self.folder)} has {key}: {value}, which does not exist or is "
                    "outside it; write a path from the description's folder"
                )
            images += all_images(place) if place.is_dir() else self._listed(place)
        root = place if len(values) == 1 and place.is_dir() else self.folder
        return root, self.found.once(split, images)

    def _listed(self, file: Path) -> list[str]:
        beside = file.parent.relative_to(self.folder).as_posix()
        images = []
        for line in read_lines(file):
            image = self._find((beside, self._root, ""), line)
            if image is None or image.is_dir():
                reason = f"{printable(file)} lists it, but the file does not exist"
                self.found.skipped.append(Skipped(line, 0, reason))
            else:
                images.append(str(image))
        return images

    @cached_property
    def _root(self) -> str:
        """Return the folder that paths start from, relative to `folder`: the description's `path`. This is often a path
        on the author's machine; if it leads out of the folder and does not exist, it stands for the folder itself."""
        path = self.description.get("path", "")
        if not isinstance(path, str):
            raise ValueError(f"path of {printable(self.folder)} is {path!r:.60}; allowed: a folder")
        here = os.path.realpath(self.folder)
        place = os.path.realpath(os.path.join(here, path))
        if place == here or (place.startswith(here + os.sep) and os.path.isdir(place)):
            return os.path.relpath(place, here).removeprefix(".")
        if os.path.isdir(place):
            raise ValueError(
                f"the description of {printable(self.folder)} has path: {path}, which is another folder; give that "
                "folder, or write path: ."
            )
        self.found.notes.append(f"path: {path} does not exist, so {printable(self.folder)} itself is used")
        return ""

    def _find(self, roots: Iterable[str], value: str) -> Path | None:
        """Return the file or folder that a path refers to, relative to the first of `roots` that has it. Nothing
        outside the folder is read: leading .. are dropped, because Roboflow writes them as if its description were
        elsewhere, and an absolute path from another machine is found by its last parts, at least two.
        """
        parts = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".")]
        while parts and parts[0] == "..":
            parts.pop(0)
        if ".." in parts:
            return None
        names = ["/".join(filter(None, (root, *parts))) for root in roots]
        if value.startswith(("/", "\\")) or value[1:2] == ":":
            here = os.path.relpath(os.path.realpath(value), os.path.realpath(self.folder))
            names = [here] if os.path.exists(value) and not here.startswith("..") else []
            names += ["/".join(parts[first:]) for first in range(len(parts) - 1)]
        elif parts[0:1] == ["data"] and (self.folder / "obj.data").is_file():  # the name in Darknet and CVAT
            names.append("/".join(parts[1:]))
        found = (self.files.find(name) for name in dict.fromkeys(name or "." for name in names))
        return next((self.folder / name for name in found if name is not None), None)
