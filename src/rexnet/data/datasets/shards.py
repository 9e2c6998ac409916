"""Labelled images in tars of the WebDataset format, on a disk or behind a URL: images are read by index, so that order,
ranks, workers and resuming work as they do with files."""

import json
import logging
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from rexnet.data.datasets.byte_source import is_url, read_bytes
from rexnet.data.datasets.shard_index import BLOCK_BYTES, ShardIndex, index_file, keep_index, unpack_index
from rexnet.data.image_files import holds_images, is_hidden
from rexnet.data.image_set import ImageSet
from rexnet.errors import BadImageError
from rexnet.files import read_text
from rexnet.text import normal_name, printable, reason_of, some_names

logger = logging.getLogger(__name__)

SHARDS_FILE = "shards.json"
CLASSES_FILE = "classes.txt"
UNFINISHED_MARK = "shards.unfinished"
SHARDS_FORMAT = "rexnet shards 1"
WRITTEN_SPLITS = ("train", "val")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


@final
class ShardImages(ImageSet):
    """Images in tars below `root`, a folder or URL. Each read is checked against the tar's own header, so that a tar
    changed after indexing raises BadImageError and never returns another image."""

    def __init__(self, root: str, index: ShardIndex):
        super().__init__(index.target, index.classes)
        self._root, self._index = root, index

    def name(self, index: int) -> str:
        """Return TAR/MEMBER."""
        row = int(self._rows[index])
        return f"{self._index.tars[self._index.tar[row]]}/{self._index.names[row]}"

    def source(self, index: int) -> bytes:
        row = int(self._rows[index])
        tar = self._index.tars[self._index.tar[row]]
        start, size = int(self._index.offset[row]), int(self._index.size[row])
        try:
            data = read_bytes(f"{self._root}/{tar}", start - BLOCK_BYTES, start + size)
        except OSError as error:
            raise BadImageError(self.name(index), reason_of(error)) from error
        if len(data) != BLOCK_BYTES + size or not _is_header_of(data[:BLOCK_BYTES], self._index.names[row], size):
            raise BadImageError(self.name(index), f"{tar} has changed since it was indexed")
        return data[BLOCK_BYTES:]


def is_shards(data: str | Path, split_names: Sequence[str]) -> bool:
    """Return whether `data` is a URL or a folder of tars: a folder with a shards.json, or one that contains tars and no
    folders, either itself or in one of its folders `split_names`."""
    if is_url(data):
        return True
    if any(os.path.exists(os.path.join(data, name)) for name in (SHARDS_FILE, UNFINISHED_MARK)):
        return True
    return any(_tar_names(folder) for folder in (data, *(os.path.join(data, name) for name in split_names)))


def load_shards(data: str, split_names: Sequence[str]) -> dict[str, ShardImages]:
    """Return the images of each split of data for which `is_shards` is true. A split is named after its folder, or
    after the names of tars that lie beside each other; "" if there are no splits. Class names are those in shards.json,
    else the lines of classes.txt, else the sorted labels.
    Raise ValueError for anything that cannot be read as labelled images.
    """
    if is_url(data):
        return _load_remote(data.rstrip("/"))
    if os.path.exists(os.path.join(data, UNFINISHED_MARK)):
        raise ValueError(f"{printable(data)} is incomplete; run the same `rexnet data shard` command again")
    if os.path.exists(os.path.join(data, SHARDS_FILE)):
        classes, tars_by_split, counts = _read_about(data)
    else:
        classes, tars_by_split, counts = _read_classes(data), _find_tars(data, split_names), {}
    found = {}
    for split, tars in tars_by_split.items():
        try:
            index = keep_index(data, split, tars=tars, classes=classes)
        except FileNotFoundError as error:
            raise ValueError(f"{printable(error.filename)} is missing, but listed in {SHARDS_FILE}") from error
        if not len(index.target):
            raise ValueError(f"the tars in {printable(os.path.join(data, split))} contain no images")
        found[split] = ShardImages(data, index)
    _check_counts(data, found, counts)
    return found


def _load_remote(url: str) -> dict[str, ShardImages]:
    try:
        if len(read_bytes(f"{url}/{SHARDS_FILE}", 0, 1)) > 1:
            raise ValueError(
                f"the server of {printable(url)} does not answer range requests; copy the folder to a "
                "disk, or use a server that answers range requests"
            )
        classes, tars, counts = _read_about(url)
        indexes = {split: unpack_index(read_bytes(f"{url}/{index_file(split)}"))[0] for split in tars}
    except OSError as error:
        raise ValueError(f"{error}; a URL must lead to a folder that `rexnet data shard` wrote") from error
    for split, index in indexes.items():
        if index.classes != classes or list(index.tars) != tars[split]:
            raise ValueError(f"{index_file(split)} belongs to other shards than {SHARDS_FILE}")
    found = {split: ShardImages(url, index) for split, index in indexes.items()}
    _check_counts(url, found, counts)
    return found


def _is_header_of(block: bytes, member: str, size: int) -> bool:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    # A long or non-ASCII name is in a separate preceding block; here it is truncated or altered.
    return header.size == size and (member.startswith(header.name) or not member.isascii())


def _tar_names(folder: str | Path) -> list[str]:
    """Return the tars in a folder that has no sub-folders."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as found:
        entries = [entry for entry in found if not is_hidden(entry.name)]
    tars = sorted(entry.name for entry in entries if entry.name.lower().endswith(".tar"))
    return [] if any(entry.is_dir() for entry in entries) else tars


def _find_tars(root: str, split_names: Sequence[str]) -> dict[str, list[str]]:
    """Return the tars of each split that has any: those in its folder, else those with its name in theirs, as in
    train-000000.tar; what lies beside the splits is ignored. Raise ValueError for a compressed tar, for a split of
    images that are not in tars, and if only some names have a split."""
    found = {split: _tar_names(os.path.join(root, split)) for split in split_names}
    if any(found.values()):
        for split, tars in found.items():
            _check_beside(os.path.join(root, split), tars)
        return {split: [os.path.join(split, tar) for tar in tars] for split, tars in found.items() if tars}
    tars = _tar_names(root)
    _check_beside(root, tars)
    by_split: dict[str, list[str]] = {}
    for tar in tars:
        by_split.setdefault(_split_in_name(tar, split_names), []).append(tar)
    if "" in by_split and len(by_split) > 1:
        names = " and ".join(printable(named[0]) for named in list(by_split.values())[:2])
        raise ValueError(f"{printable(root)} has {names}; put a split into the name of every tar, or of none")
    return by_split


def _split_in_name(tar: str, split_names: Sequence[str]) -> str:
    """Return the only split that is a part of a name such as imagenet-train-000000.tar; "" if there is none."""
    parts = set(re.split(r"[^a-z]+", tar.lower()))
    found = [split for split in split_names if split in parts]
    return found[0] if len(found) == 1 else ""


def _check_beside(folder: str, tars: Sequence[str]) -> None:
    names = [name for name in sorted(os.listdir(folder)) if not is_hidden(name)] if os.path.isdir(folder) else []
    if packed := [name for name in names if name.lower().endswith(_COMPRESSED)]:
        raise ValueError(
            f"{printable(os.path.join(folder, packed[0]))} is compressed, so its images cannot be read by index; "
            "decompress it, or move it elsewhere"
        )
    if loose := [name for name in names if holds_images(os.path.join(folder, name))]:
        if not tars:
            raise ValueError(f"{printable(folder)} has no tars, which another split has; pack its images or remove it")
        logger.warning("%s: images outside the tars are skipped: %s", printable(folder), some_names(loose))


def _read_classes(root: str) -> tuple[str, ...] | None:
    path = os.path.join(root, CLASSES_FILE)
    if not os.path.exists(path):
        return None
    classes = tuple(map(normal_name, read_text(path, errors="surrogateescape").removesuffix("\n").split("\n")))
    if len(set(classes)) != len(classes) or "" in classes:
        raise ValueError(
            f"{printable(path)} must have one class name per line, each once, but has an empty line or a duplicate"
        )
    return classes


def _read_about(root: str) -> tuple[tuple[str, ...], dict[str, list[str]], dict[str, int]]:
    """Return the classes, and the tars and number of images of each split, from shards.json: {"format", "classes",
    "sides": {split: [{"file", "images"}]}}."""
    try:
        about: Any = json.loads(read_bytes(f"{root}/{SHARDS_FILE}"))
        if about["format"] != SHARDS_FORMAT:
            raise ValueError(f"its format is {about['format']!r}; allowed: {SHARDS_FORMAT!r}")
        splits = about["sides"]
        if not splits or not set(splits) <= set(WRITTEN_SPLITS) or not all(splits.values()):
            raise ValueError(f"it must list tars for {' and '.join(WRITTEN_SPLITS)}")
        tars = {split: [tar["file"] for tar in rows] for split, rows in splits.items()}
        if any(os.path.isabs(file) or ".." in Path(file).parts for files in tars.values() for file in files):
            raise ValueError("it names a file outside the folder")
        counts = {split: sum(tar["images"] for tar in rows) for split, rows in splits.items()}
        return tuple(map(normal_name, about["classes"])), tars, counts
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        name = f"{printable(root)}/{SHARDS_FILE}"
        raise ValueError(f"{name} was not written by `rexnet data shard` ({reason_of(error)})") from error


def _check_counts(root: str, found: dict[str, ShardImages], counts: dict[str, int]) -> None:
    for split, expected in counts.items():
        if len(found[split]) != expected:
            raise ValueError(
                f"{printable(root)} has {len(found[split]):,} images in {split}, but {SHARDS_FILE} states {expected:,}"
            )
