"""Where every picture lies in a set of tars (WebDataset format): found by reading the tars' headers once, then kept in
a file beside them.

The tars are never unpacked: names in them serve as labels and in reports, never as paths.
"""

import io
import json
import logging
import os
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rexnet.data.decode import has_image_extension
from rexnet.text import printable

logger = logging.getLogger(__name__)

BLOCK_BYTES = 512
_VERSION = 1
_LABEL_SUFFIXES = ("cls", "json", "txt")  # the first of these that a sample has
_JSON_KEYS = ("label", "cls", "class")
_MAX_LABEL_BYTES = 1 << 20
_MAX_IMAGE_BYTES = 1 << 31


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """One row a picture, in the order of `tars` and of the members in them, in flat arrays: worker processes share
    them. `offset` and `size` (bytes) are those of the encoded picture in its tar, `target` indexes `classes`;
    `names_text` holds the member names as UTF-8, end to end, each up to its place in `names_end`."""

    tars: tuple[str, ...]
    classes: tuple[str, ...]
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    target: np.ndarray
    names_text: np.ndarray
    names_end: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def member(self, row: int) -> str:
        start = self.names_end[row - 1] if row else 0
        return self.names_text[start : self.names_end[row]].tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True)
class TarState:
    """A tar as it was when it was indexed; with another size or time its index is not used."""

    name: str
    size: int
    mtime_ns: int


def tar_states(folder: str, names: Sequence[str]) -> list[TarState]:
    found = [(name, os.stat(os.path.join(folder, name))) for name in names]
    return [TarState(name=name, size=status.st_size, mtime_ns=status.st_mtime_ns) for name, status in found]


def build_index(folder: str, tars: Sequence[str], classes: Sequence[str] | None) -> ShardIndex:
    """Reads the headers and labels of `tars`, paths below `folder`.

    A sample is a run of members that agree up to the first dot of the base name, as in the webdataset library: a
    picture and its label, `.cls`, `.json` (its field label, cls or class) or `.txt`: a number, which is a line of
    `classes`, or a class name. Without `classes` labels must be names. What is no picture is left out.

    Raises ValueError for a damaged tar, a picture without label or with one that `classes` does not have.
    """
    rows = _Rows()
    for number, name in enumerate(tars):
        _read_tar(os.path.join(folder, name), number, rows)
    if rows.left_out:
        logger.warning("%s: left out %d links, devices or samples without a picture", printable(folder), rows.left_out)
    found, targets = _resolve(rows, classes, folder)
    return ShardIndex(
        tars=tuple(tars),
        classes=found,
        tar=np.array(rows.tar, dtype=np.int32),
        offset=np.array(rows.offset, dtype=np.int64),
        size=np.array(rows.size, dtype=np.int64),
        target=targets,
        names_text=np.frombuffer(bytes(rows.names_text), dtype=np.uint8),
        names_end=np.array(rows.names_end, dtype=np.int64),
    )


class _Rows:
    """What `build_index` has read so far. Labels are kept as codes: `labels` maps each distinct one to its code."""

    def __init__(self) -> None:
        self.tar: list[int] = []
        self.offset: list[int] = []
        self.size: list[int] = []
        self.code: list[int] = []
        self.labels: dict[int | str, int] = {}
        self.names_text = bytearray()
        self.names_end: list[int] = []
        self.left_out = 0

    def add(self, tar: int, image: tarfile.TarInfo, label: int | str) -> None:
        self.tar.append(tar)
        self.offset.append(image.offset_data)
        self.size.append(image.size)
        self.code.append(self.labels.setdefault(label, len(self.labels)))
        self.names_text += image.name.encode("utf-8", "surrogateescape")
        self.names_end.append(len(self.names_text))


def _read_tar(path: str, number: int, rows: _Rows) -> None:
    try:
        with tarfile.open(path, "r:") as tar, open(path, "rb") as stream:
            key, sample = None, {}
            while member := tar.next():
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # or else it keeps every header
                if not member.isfile() or member.issparse():
                    rows.left_out += not member.isdir()
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if (folder, stem) != key:
                    _add_sample(path, number, sample, stream=stream, rows=rows)
                    key, sample = (folder, stem), {}
                if suffix.lower() in sample:
                    raise ValueError(f"{printable(path)} holds {printable(member.name)} twice")
                sample[suffix.lower()] = member
            _add_sample(path, number, sample, stream=stream, rows=rows)
            stream.seek(tar.offset)
            if stream.read(BLOCK_BYTES).strip(b"\0") or os.fstat(stream.fileno()).st_size < tar.offset + BLOCK_BYTES:
                raise tarfile.ReadError("it ends without the end mark of a tar, or is damaged in the middle")
    except tarfile.TarError as error:
        raise ValueError(f"{printable(path)} is not a whole tar: {error}") from error


def _add_sample(
    path: str, number: int, sample: dict[str, tarfile.TarInfo], *, stream: io.BufferedReader, rows: _Rows
) -> None:
    images = [member for suffix, member in sample.items() if has_image_extension(f"x.{suffix}") and "." not in suffix]
    if not images:
        rows.left_out += bool(sample)
        return
    name = f"{printable(images[0].name)} in {printable(path)}"
    if len(images) > 1:
        raise ValueError(f"the sample of {name} has {len(images)} pictures; one is needed")
    if images[0].size >= _MAX_IMAGE_BYTES:
        raise ValueError(f"{name} has {images[0].size:,} bytes; less than {_MAX_IMAGE_BYTES:,} are allowed")
    for suffix in _LABEL_SUFFIXES:
        if suffix in sample:
            stream.seek(sample[suffix].offset_data)
            text = stream.read(min(sample[suffix].size, _MAX_LABEL_BYTES))
            if (label := _label(suffix, text)) is not None:
                rows.add(number, images[0], label)
                return
    raise ValueError(f"{name} has no label: each picture needs a .cls, .json or .txt of its name beside it")


def _label(suffix: str, data: bytes) -> int | str | None:
    text = data.decode("utf-8", "surrogateescape").strip()
    if suffix == "json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return None
        values = [content.get(key) for key in _JSON_KEYS] if isinstance(content, dict) else [content]
        return next((v for v in values if isinstance(v, int | str) and not isinstance(v, bool)), None)
    if suffix == "cls" and text.isascii() and text.isdecimal():
        return int(text)
    return text or None


def _resolve(rows: _Rows, classes: Sequence[str] | None, folder: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and the class index (N,) of every row."""
    if classes is None:
        numbers = [label for label in rows.labels if isinstance(label, int) or label.isdecimal()]
        if numbers:
            raise ValueError(
                f"the labels in {printable(folder)} are numbers, such as {numbers[0]}: put a classes.txt there, with "
                "the name of class 0 in the first line, of class 1 in the second, and so on"
            )
        classes = sorted(str(label) for label in rows.labels)
    position: dict[int | str, int] = {name: index for index, name in enumerate(classes)}
    targets = np.zeros(len(rows.labels), dtype=np.int64)
    for label, code in rows.labels.items():
        index = label if isinstance(label, int) else position.get(label, int(label) if label.isdecimal() else -1)
        if not 0 <= index < len(classes):
            shown = label if isinstance(label, int) else repr(printable(label))
            raise ValueError(
                f"{printable(folder)} has the label {shown}, which is none of its {len(classes)} classes (the lines "
                "of classes.txt, from 0)"
            )
        targets[code] = index
    return tuple(classes), targets[np.array(rows.code, dtype=np.int64)]


_ARRAYS = {
    "tar": np.int32,
    "offset": np.int64,
    "size": np.int64,
    "target": np.int64,
    "names_text": np.uint8,
    "names_end": np.int64,
}


def pack_index(index: ShardIndex, states: Sequence[TarState], given_classes: Sequence[str] | None) -> bytes:
    """The content of an index file, which `unpack_index` reads. `given_classes`: those that `build_index` was given."""
    about = {
        "version": _VERSION,
        "classes": index.classes,
        "given_classes": given_classes,
        "tars": [[state.name, state.size, state.mtime_ns] for state in states],
    }
    arrays: dict[str, Any] = {name: getattr(index, name) for name in _ARRAYS}
    buffer = io.BytesIO()
    np.savez(buffer, about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


def unpack_index(data: bytes) -> tuple[ShardIndex, list[TarState], tuple[str, ...] | None]:
    """The reverse of `pack_index`. Nothing in it is trusted: ValueError for anything but an index whose rows all lie
    within its tars and classes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")  # a few bytes could become many
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            loaded = {name: arrays[name] for name in _ARRAYS}
        if about["version"] != _VERSION:
            raise ValueError(f"it has version {about['version']!r} instead of {_VERSION}")
        states = [TarState(name=str(name), size=int(size), mtime_ns=int(t)) for name, size, t in about["tars"]]
        index = ShardIndex(
            tars=tuple(state.name for state in states), classes=tuple(map(str, about["classes"])), **loaded
        )
        _check(index, np.array([state.size for state in states], dtype=np.int64))
        given = about["given_classes"]
        return index, states, None if given is None else tuple(map(str, given))
    except Exception as error:  # zipfile and numpy meet damage with almost any exception
        raise ValueError(f"it is no index of this program, or damaged ({error})") from error


def _check(index: ShardIndex, tar_sizes: np.ndarray) -> None:
    columns = {name: getattr(index, name) for name in _ARRAYS}
    if any(column.ndim != 1 or column.dtype != _ARRAYS[name] for name, column in columns.items()):
        raise ValueError("its columns have other types")
    if len({len(column) for name, column in columns.items() if name != "names_text"}) != 1:
        raise ValueError("its columns differ in length")
    if not len(index):
        return
    if not (index.tar.min() >= 0 and index.tar.max() < len(index.tars)):
        raise ValueError("a row is in a tar that is not there")
    if not (index.target.min() >= 0 and index.target.max() < len(index.classes)):
        raise ValueError("a row has a class that is not there")
    if not (index.size.min() >= 0 and index.size.max() < _MAX_IMAGE_BYTES and index.offset.min() >= BLOCK_BYTES):
        raise ValueError("a row has an impossible size or place")
    if (index.offset > tar_sizes[index.tar] - index.size).any():
        raise ValueError("a row lies outside its tar")
    if index.names_end[0] < 0 or (np.diff(index.names_end) < 0).any() or index.names_end[-1] > len(index.names_text):
        raise ValueError("the names are in disorder")
