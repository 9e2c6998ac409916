"""Labelled images in tars of the WebDataset format, on a disk or behind a URL: any picture by its index, so that order,
ranks, workers and resuming work as with files."""

import json
import logging
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from rexnet.data.datasets.byte_source import ByteSource, LocalSource, RemoteSource, is_url
from rexnet.data.datasets.shard_index import BLOCK_BYTES, ShardIndex, build_index, pack_index, tar_states, unpack_index
from rexnet.data.image_set import ImageSet
from rexnet.errors import BadImageError
from rexnet.files import write_whole
from rexnet.text import printable, reason_of

logger = logging.getLogger(__name__)

SHARDS_FILE = "shards.json"
CLASSES_FILE = "classes.txt"
UNFINISHED_MARK = "shards.unfinished"
SHARDS_FORMAT = "rexnet shards 1"
WRITTEN_SPLITS = ("train", "val")
_ALL = ""


@final
class ShardImages(ImageSet):
    """Pictures in tars. Each read is compared with the tar's own header, so a tar that was changed after its index was
    made gives a BadImageError, never another picture."""

    def __init__(self, source: ByteSource, index: ShardIndex):
        super().__init__(index.target, index.classes)
        self._source, self._index = source, index

    def name(self, index: int) -> str:
        """TAR/MEMBER."""
        row = int(self._rows[index])
        return f"{self._index.tars[self._index.tar[row]]}/{self._index.member(row)}"

    def source(self, index: int) -> bytes:
        row = int(self._rows[index])
        tar = self._index.tars[self._index.tar[row]]
        start, size = int(self._index.offset[row]), int(self._index.size[row])
        try:
            data = self._source.read(tar, start - BLOCK_BYTES, start + size)
        except OSError as error:
            raise BadImageError(self.name(index), reason_of(error)) from error
        if len(data) != BLOCK_BYTES + size or not _is_header_of(data[:BLOCK_BYTES], self._index.member(row), size):
            raise BadImageError(self.name(index), f"{tar} is not as it was when its index was made")
        return data[BLOCK_BYTES:]

    def encoded_bytes(self, index: int) -> int:
        """Size of the picture's file."""
        return int(self._index.size[self._rows[index]])


def is_shards(data: str | Path, side_names: Sequence[str]) -> bool:
    """Whether `data` is a URL, or a folder that holds tars in place of images: with a shards.json, or with tars, and no
    folder, in itself or in one of its folders `side_names`."""
    if is_url(data):
        return True
    if not os.path.isdir(data):
        return False
    if any(os.path.exists(os.path.join(data, name)) for name in (SHARDS_FILE, UNFINISHED_MARK)):
        return True
    folders = [os.path.join(data, name) for name in side_names]
    return any(_tar_names(folder) and not _has_folders(folder) for folder in (data, *folders))


def load_shards(data: str | Path, side_names: Sequence[str]) -> tuple[dict[str, ShardImages], str]:
    """(side -> its pictures, name of the data), of which `is_shards` holds. A side is called as its folder, and ""
    where the tars have no sides; the classes of all sides are the same, in the same order.

    Class names are those of shards.json, else the lines of classes.txt, else the labels themselves, sorted. Raises
    ValueError, one sentence, for what cannot be read as labelled pictures.
    """
    if is_url(data):
        sides = _remote_sides(RemoteSource(str(data)))
        return sides, printable(data)
    root = os.fspath(data)
    if os.path.exists(os.path.join(root, UNFINISHED_MARK)):
        raise ValueError(f"{printable(root)} was never finished; run its `rexnet data shard` again")
    about = _read_about(LocalSource(root)) if os.path.exists(os.path.join(root, SHARDS_FILE)) else None
    classes = about["classes"] if about else _read_classes(root)
    if about:
        tars_by_side = {side: [tar["file"] for tar in tars] for side, tars in about["sides"].items()}
    else:
        tars_by_side = _find_tars(root, side_names)
    sides = {side: _local_side(root, side, tars=tars, classes=classes) for side, tars in tars_by_side.items()}
    if about:
        for side, images in sides.items():
            _check_count(root, side, found=len(images), about=about)
    known = max((images.classes for images in sides.values()), key=len)
    matched = {side: _matched(root, side, images=images, classes=known) for side, images in sides.items()}
    return matched, printable(Path(root).resolve().name)


def index_file(side: str) -> str:
    return f"index-{side or 'all'}.npz"


def _is_header_of(block: bytes, member: str, size: int) -> bool:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    # A long name, or one that is not plain text, stands in a block of its own before; here it is cut or altered.
    return header.size == size and (member.startswith(header.name) or not member.isascii())


def _tar_names(folder: str | Path) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if name.endswith(".tar") and not name.startswith("."))


def _find_tars(root: str, side_names: Sequence[str]) -> dict[str, list[str]]:
    """Side -> its tars, of sides that have some; tars beside the sides are not looked at."""
    found = {side: [os.path.join(side, tar) for tar in _tar_names(os.path.join(root, side))] for side in side_names}
    return {side: tars for side, tars in found.items() if tars} or {_ALL: _tar_names(root)}


def _has_folders(folder: str | Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)


def _read_classes(root: str) -> tuple[str, ...] | None:
    path = os.path.join(root, CLASSES_FILE)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        classes = tuple(line.rstrip("\r\n") for line in file)
    if len(set(classes)) != len(classes) or "" in classes:
        raise ValueError(
            f"{printable(path)} must hold one class name a line, each once, but has an empty line or a name twice"
        )
    return classes


def _read_about(source: ByteSource) -> dict[str, Any]:
    """shards.json: {"format", "classes", "sides": {side: [{"file", "images"}]}}."""
    where = f"{printable(source.location)}/{SHARDS_FILE}"
    try:
        about = json.loads(source.read(SHARDS_FILE))
        if about["format"] != SHARDS_FORMAT:
            raise ValueError(f"its format is {about['format']!r}, known is {SHARDS_FORMAT!r}")
        if not about["sides"] or not set(about["sides"]) <= set(WRITTEN_SPLITS) or not all(about["sides"].values()):
            raise ValueError(f"it must name tars for {' and '.join(WRITTEN_SPLITS)}")
        files = [tar["file"] for tars in about["sides"].values() for tar in tars]
        if any(os.path.isabs(file) or ".." in Path(file).parts for file in files):
            raise ValueError("it names a file outside the folder")
        counts = [tar["images"] for tars in about["sides"].values() for tar in tars]
        if not (all(isinstance(name, str) for name in about["classes"]) and all(isinstance(n, int) for n in counts)):
            raise ValueError("classes are names and images are numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is not what `rexnet data shard` writes ({error})") from error
    return {**about, "classes": tuple(about["classes"])}


def _check_count(root: str, side: str, *, found: int, about: dict[str, Any]) -> None:
    expected = sum(tar["images"] for tar in about["sides"][side])
    if found != expected:
        raise ValueError(f"{printable(root)} holds {found:,} images in {side}, but {SHARDS_FILE} says {expected:,}")


def _local_side(root: str, side: str, *, tars: Sequence[str], classes: tuple[str, ...] | None) -> ShardImages:
    try:
        states = tar_states(root, tars)
    except FileNotFoundError as error:
        raise ValueError(f"{printable(error.filename)} is missing, but {SHARDS_FILE} names it") from error
    path = os.path.join(root, index_file(side))
    index = None
    if os.path.exists(path):
        try:
            index, indexed_states, indexed_classes = unpack_index(LocalSource(root).read(index_file(side)))
            if indexed_states != states or indexed_classes != classes:
                index = None
        except (OSError, ValueError) as error:
            logger.warning("%s is made anew: %s", printable(path), reason_of(error))
    if index is None:
        index = build_index(root, tars, classes)
        try:
            write_whole(path, pack_index(index, states, classes))
        except OSError as error:
            told = "%s cannot be kept: the tars are read through at every start (%s)"
            logger.info(told, printable(path), reason_of(error))
    if not len(index):
        raise ValueError(f"the tars in {printable(os.path.join(root, side))} hold no pictures")
    return ShardImages(LocalSource(root), index)


def _matched(root: str, side: str, *, images: ShardImages, classes: tuple[str, ...]) -> ShardImages:
    if unknown := sorted(set(images.classes) - set(classes)):
        raise ValueError(
            f"the label {printable(unknown[0])} of {printable(os.path.join(root, side))} is missing in "
            "the other side; a classes.txt with all class names would settle it"
        )
    return images.with_classes(classes)


def _remote_sides(source: RemoteSource) -> dict[str, ShardImages]:
    try:
        source.check_ranges(SHARDS_FILE)
        about = _read_about(source)
        sides = {}
        for side, tars in about["sides"].items():
            index, states, _ = unpack_index(source.read(index_file(side)))
            if index.classes != about["classes"] or [s.name for s in states] != [tar["file"] for tar in tars]:
                raise ValueError(f"{index_file(side)} belongs to other shards than {SHARDS_FILE}")
            _check_count(source.location, side, found=len(index), about=about)
            sides[side] = ShardImages(source, index)
    except OSError as error:
        raise ValueError(f"{error}; a URL must be that of a folder that `rexnet data shard` wrote") from error
    return sides
