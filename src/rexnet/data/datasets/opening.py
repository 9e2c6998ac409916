"""Resolution of DATA, the string that names a dataset in every command and function."""

import logging
import os
import shlex
from collections import defaultdict
from collections.abc import Mapping
from filecmp import cmp
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np

from rexnet.data.boxes.coco import find_annotation_files
from rexnet.data.boxes.convert import find_layout
from rexnet.data.datasets.byte_source import is_url
from rexnet.data.datasets.dataset import Dataset, Split
from rexnet.data.datasets.folder import find_images_beside, holds_run, read_class_folders, split_folders
from rexnet.data.datasets.hugging_face import HUGGING_FACE_PREFIX, load_hugging_face
from rexnet.data.datasets.named import describe_split, is_named_set, load_named_set, named_set_is_small
from rexnet.data.datasets.shards import is_shards, load_shards
from rexnet.data.image_files import find_images, require_images
from rexnet.data.image_set import FileImages, ImageSet, PartlyLabelledImages
from rexnet.data.splits import SPLITS, VAL_SPLITS, ImageSets
from rexnet.files import real_path
from rexnet.text import printable, some_names

logger = logging.getLogger(__name__)

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_UNSPLIT = ("annotations/instances_default.json", "result.json", "result_coco.json")
"""Names of the single annotation file that CVAT and Label Studio export."""
_STREAMS = ("tfds/", "wds/", "hfids/")  # timm's names
_ALLOWED = (
    "a folder with a folder of images for each class, a folder of tars or its URL, digits, torchvision/cifar10, "
    "hfds/NAME, and for detectors a folder in COCO's layout"
)


def open_dataset(data: str | PathLike[str]) -> Dataset:
    """Return the dataset that `data` names. A known name takes precedence over a folder of that name; ./NAME and a Path
    mean the folder.

    - `digits`: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels; the validation split is always the same fifth.
    - `torchvision/NAME`: a dataset of torchvision with its own split, in torch.hub's folder, downloaded if missing.
    - `hfds/NAME`: a dataset of the Hugging Face library, see `hugging_face`.
    - a folder of tars, or its URL, see `shards`.
    - a folder in COCO's layout: images with boxes, see `rexnet.data.boxes.coco`; in Pascal VOC's or YOLO's layout,
      which can only be checked and converted, see `rexnet.data.boxes.convert`.
    - a folder with train/ and val/ (or valid/, validation/, test/; the first one that exists), each with a folder for
      each class, or a single folder of class folders. Hidden names and files without an image extension are skipped.

    Raise ValueError for anything else.
    """
    text = os.fspath(data)
    found = _named(text) if isinstance(data, str) else None
    return found or _local(text)


def open_images(data: str | PathLike[str]) -> ImageSet:
    """Return images regardless of labels: the validation split of a named dataset or of tars, else every image below a
    folder or matching a pattern. Raise ValueError if there are none."""
    text = os.fspath(data)
    found = _named(text) if isinstance(data, str) else None
    if found is None and os.path.isdir(text) and is_shards(text, SPLITS):
        found = _local(text)
    if found is None:
        files = [str(file) for file in find_images([text])]
        return FileImages(files, np.zeros(len(files)), ["any"])
    split = found.val or found.train
    assert split is not None, "a dataset has a split"
    return split.images


def check_images(data: str) -> None:
    """Raise ValueError if `open_images` would not find the data; the content of datasets is not listed."""
    if _named(data) is None and not (os.path.isdir(data) and is_shards(data, SPLITS)):
        require_images([data])


def with_unlabelled(sets: ImageSets, unlabelled: str | None) -> ImageSet:
    """Return the training images, followed by those of `open_images(unlabelled)` as unlabelled images, except for
    images of either split and copies of their files. Raise ValueError if no unlabelled image is left."""
    if unlabelled is None:
        return sets.train
    images = open_images(unlabelled)
    used = {real_path(split.name(index)) for split in (sets.train, sets.val) for index in range(len(split))}
    paths = [real_path(images.name(index)) for index in range(len(images))]
    known = used | _find_copies(set(paths) - used, used)
    chosen = [index for index, path in enumerate(paths) if path not in known]
    if not chosen:
        raise ValueError(f"all images of {printable(unlabelled)} are in DATA; name a folder with other images")
    return PartlyLabelledImages(sets.train, images.subset(np.array(chosen)))


def _find_copies(paths: set[Path], originals: set[Path]) -> set[Path]:
    """Return the `paths` of files with the same content as one of `originals`. Only files of equal size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in originals:
        if path.is_file():
            by_size[path.stat().st_size].append(path)
    candidates = {path: by_size[size] for path in paths if path.is_file() and (size := path.stat().st_size) in by_size}
    return {path for path, others in candidates.items() if any(cmp(path, other, shallow=False) for other in others)}


def hub_name(data: str) -> str | None:
    """Return NAME of `hfds/NAME` if it may be a dataset on the Hub; None for other data."""
    name = data.removeprefix(HUGGING_FACE_PREFIX)
    return None if name == data or os.path.exists(name) else name


def is_remote(data: str) -> bool:
    """Return whether `data` can only be read over a network."""
    return data.startswith(HUGGING_FACE_PREFIX) or is_url(data)


def _named(text: str) -> Dataset | None:
    if is_named_set(text):
        return Dataset(
            data=text,
            kind="named",
            title=text,
            own_split=describe_split(text),
            small=named_set_is_small(text),
            read=lambda: _as_splits(text, dict(zip(("train", "val"), load_named_set(text), strict=True))),
        )
    if text.startswith(HUGGING_FACE_PREFIX):
        return Dataset(
            data=text,
            kind="hugging_face",
            title=printable(text),
            own_split="its own split",
            read=lambda: _as_splits(text, load_hugging_face(text)),
        )
    if text.startswith(_STREAMS) and not os.path.exists(text):
        raise ValueError(
            f"{printable(text)} is a stream in timm's notation, and streams cannot be read by index; give "
            "hfds/NAME, a folder of tars, or the URL of one that `rexnet data shard` wrote"
        )
    if is_url(text):
        return Dataset(data=text, kind="tars", title=printable(text), read=partial(_read_tars, text))
    return None


def _local(text: str) -> Dataset:
    if unpack := _unpacking(text):
        raise ValueError(f"{printable(text)} is an archive; unpack it first: {unpack}")
    if not os.path.isdir(text):
        state = "is a file" if os.path.exists(text) else "is not a dataset name, and the folder does not exist"
        raise ValueError(f"{printable(text)} {state}; allowed: {_ALLOWED}")
    if holds_run(text):
        raise ValueError(f"{printable(text)} is a run folder, not a dataset; allowed: {_ALLOWED}")
    title = printable(real_path(text).name)
    if is_shards(text, SPLITS):
        return Dataset(data=text, kind="tars", title=title, read=partial(_read_tars, text))
    splits = split_folders(text)
    if (files := find_annotation_files(text)) and not _holds_folders(splits.get("train")):
        return Dataset(data=text, kind="boxes", title=title, annotation_files=files)
    if not files and (layout := find_layout(Path(text))):
        return Dataset(data=text, kind=layout, title=title)
    if not files and (export := next((name for name in _UNSPLIT if os.path.isfile(os.path.join(text, name))), None)):
        raise ValueError(
            f"{printable(text)} has its annotations in {export}, a COCO file without a split, as CVAT and Label Studio "
            "export it: split it into annotations/instances_train.json and annotations/instances_val.json, for "
            "rexnet detect train; rexnet train takes a folder of images for each class"
        )
    return Dataset(
        data=text, kind="folder", title=title, annotation_files=files, read=partial(_read_folders, text, splits)
    )


def _unpacking(text: str) -> str | None:
    """Return the command that unpacks an archive; None for another path."""
    name = os.path.basename(text)
    suffix = next((suffix for suffix in _ARCHIVES if name.lower().endswith(suffix)), None)
    if suffix is None or not os.path.isfile(text):
        return None
    module = "zipfile" if suffix == ".zip" else "tarfile"
    return f"python -m {module} -e {shlex.quote(text)} {shlex.quote(text[: -len(suffix)])}"


def _holds_folders(folder: str | None) -> bool:
    """Return whether train/ has class folders; an annotation file beside it then does not make it a detection
    dataset."""
    return folder is not None and any(os.path.isdir(os.path.join(folder, name)) for name in os.listdir(folder))


def _read_folders(root: str, splits: Mapping[str, str]) -> dict[str, Split]:
    second = [name for name in VAL_SPLITS[:-1] if name in splits][1:]  # a test split is meant for later
    if beside := [*find_images_beside(root, splits), *second]:
        text = "%s: the images of %s are not used, because there is %s/"
        logger.warning(text, printable(root), some_names(beside), "/, ".join(n for n in splits if n not in second))
    return {
        name: Split(name=name, where=printable(folder), read=partial(read_class_folders, folder))
        for name, folder in splits.items()
    }


def _read_tars(text: str) -> dict[str, Split]:
    return _as_splits(text, load_shards(text, SPLITS))


def _as_splits(text: str, found: Mapping[str, ImageSet]) -> dict[str, Split]:
    wheres = {name: f"{printable(text)} ({name})" if name else printable(text) for name in found}
    return {name: Split(name=name, where=wheres[name], read=lambda name=name: found[name]) for name in found}
