"""Index of the images in a set of tars (WebDataset format): built by reading the tars' headers once, then stored in a
file beside them.

The tars are never unpacked: names in them are used for labels and reports, never as paths.
"""

import io
import json
import logging
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from rexnet.data.datasets.byte_source import read_bytes
from rexnet.data.image_files import has_image_extension, has_other_extension, is_hidden
from rexnet.data.image_set import FlatTexts
from rexnet.files import write_whole
from rexnet.text import normal_name, printable, reason_of

logger = logging.getLogger(__name__)

BLOCK_BYTES = 512
_VERSION = 2
_LABEL_EXTENSIONS = (".cls", ".json", ".txt")  # the first of these that a sample has
_JSON_KEYS = ("label", "cls", "class")
_MAX_LABEL_BYTES = 1 << 20
_DTYPES = {"tar": np.int32, "offset": np.int64, "size": np.int64, "target": np.int64, "names_end": np.int64}


@final
@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """A row per image, in the order of `tars` and their members, in flat arrays that worker processes share. `offset`
    and `size` (bytes) are those of the encoded image in its tar, `target` indexes `classes`, `names` are the members'
    names."""

    tars: tuple[str, ...]
    classes: tuple[str, ...]
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    target: np.ndarray
    names: FlatTexts


def index_file(split: str) -> str:
    return f"index-{split or 'all'}.npz"


def keep_index(
    root: str, split: str, *, tars: Sequence[str], classes: Sequence[str] | None, required: bool = False
) -> ShardIndex:
    """Return the index of a split's tars from its file in `root`, which is written if it is missing or outdated;
    failure to write it is an error only if `required`. Raise ValueError as `build_index` does, and FileNotFoundError
    for a missing tar."""
    path = os.path.join(root, index_file(split))
    states = [os.stat(os.path.join(root, tar)) for tar in tars]
    about = {  # the file is outdated if sizes, times or classes differ
        "version": _VERSION,
        "given_classes": classes and list(classes),
        "tars": [[tar, state.st_size, state.st_mtime_ns] for tar, state in zip(tars, states, strict=True)],
    }
    if os.path.exists(path):
        try:
            index, found = unpack_index(read_bytes(path))
            if found == about:
                return index
        except (OSError, ValueError) as error:
            logger.warning("%s is rebuilt: %s", printable(path), reason_of(error))
    index = build_index(root, tars, classes)
    try:
        write_whole(path, pack_index(index, about))
    except OSError as error:
        if required:
            raise
        text = "%s cannot be written, so the tars are indexed again at every start (%s)"
        logger.info(text, printable(path), reason_of(error))
    return index


def build_index(root: str, tars: Sequence[str], classes: Sequence[str] | None) -> ShardIndex:
    """Read the headers and labels of `tars`, paths below `root`.

    A sample is an image and a label with the same name up to the extension: `.cls`, `.json` (its field label, cls or
    class) or `.txt`. A label is a line number of `classes` or a class name; without `classes` it must be a name. Hidden
    members are ignored; links, devices, labels without an image, and images beside a labelled one (a.mask.png of a.jpg)
    are skipped and counted in the log.

    Raise ValueError for a damaged tar, and for an image without a label or with one that is not in `classes`.
    """
    rows: list[tuple[int, int, int]] = []
    names: list[str] = []
    labels: list[int | str] = []
    skipped: Counter[str] = Counter()
    for number, tar in enumerate(tars):
        for name, (offset, size), label in _read_samples(os.path.join(root, tar), skipped):
            rows.append((number, offset, size))
            names.append(name)
            labels.append(label)
    if skipped := +skipped:
        logger.warning("%s: skipped %s", printable(root), ", ".join(f"{kind}: {n}" for kind, n in skipped.items()))
    known = tuple(classes or _class_names(labels, root))
    class_of: dict[int | str, int] = {text: number for number in range(len(known)) for text in (number, str(number))}
    class_of |= {name: number for number, name in enumerate(known)}
    if strange := [label for label in dict.fromkeys(labels) if label not in class_of]:
        raise ValueError(
            f"{printable(root)} has the label {printable(str(strange[0]))!r}, which is not one of its {len(known)} "
            "classes (the lines of classes.txt, from 0)"
        )
    tar, offset, size = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    target = np.array([class_of[label] for label in labels], dtype=np.int64)
    columns = {"tar": tar.astype(np.int32), "offset": offset, "size": size, "target": target}
    return ShardIndex(tars=tuple(tars), classes=known, names=FlatTexts.pack(names), **columns)


def _class_names(labels: Sequence[int | str], root: str) -> list[str]:
    numbers = [label for label in labels if isinstance(label, int) or label.isdecimal()]
    if numbers:
        raise ValueError(
            f"the labels in {printable(root)} are numbers, such as {numbers[0]}; put a classes.txt there, with the "
            "name of class 0 in the first line, of class 1 in the second, and so on"
        )
    return sorted({str(label) for label in labels})


def _read_samples(path: str, skipped: Counter[str]) -> Iterator[tuple[str, tuple[int, int], int | str]]:
    """Yield the name of each labelled image, its (offset, size) in the tar, and its label."""
    images, labels = _read_members(path, skipped)
    for stem, (name, place) in images.items():
        found = (labels.get((stem, extension)) for extension in _LABEL_EXTENSIONS)
        if (label := next((label for label in found if label is not None), None)) is not None:
            yield name, place, label
        elif any(stem[:dot] in images for dot, letter in enumerate(stem) if letter == "."):
            skipped["images beside a labelled one"] += 1
        else:
            raise ValueError(
                f"{printable(name)} in {printable(path)} has no label; each image needs a .cls, .json or .txt file of "
                "the same name beside it"
            )
    skipped["labels without an image"] += len({stem for stem, _ in labels} - images.keys())


def _read_members(
    path: str, skipped: Counter[str]
) -> tuple[dict[str, tuple[str, tuple[int, int]]], dict[tuple[str, str], int | str | None]]:
    """Return the images by stem, each with its name and position, and the labels by stem and extension."""
    images, labels = {}, {}
    try:
        with open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            while member := tar.next():
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # it would keep every header
                stem, extension = os.path.splitext(member.name)
                key = (stem, extension.lower())
                if any(map(is_hidden, member.name.split("/"))):
                    continue
                if not member.isfile() or member.issparse():
                    skipped["links or devices"] += not member.isdir()
                elif key in labels or (stem in images and has_image_extension(member.name)):
                    raise ValueError(f"{printable(path)}: {printable(member.name)} is a duplicate in its sample")
                elif has_image_extension(member.name):
                    images[stem] = (member.name, (member.offset_data, member.size))
                elif has_other_extension(member.name):
                    skipped[f"{key[1]} images, which must be JPEG or PNG"] += 1
                elif key[1] in _LABEL_EXTENSIONS:
                    stream.seek(member.offset_data)
                    labels[key] = _label(key[1], stream.read(min(member.size, _MAX_LABEL_BYTES)))
            stream.seek(tar.offset)
            if (end := stream.read(BLOCK_BYTES)).strip(b"\0") or len(end) < BLOCK_BYTES:
                raise tarfile.ReadError("the end-of-archive marker is missing, or it is damaged")
    except tarfile.TarError as error:
        raise ValueError(f"{printable(path)} is an incomplete tar: {error}") from error
    return images, labels


def _label(extension: str, data: bytes) -> int | str | None:
    text = data.decode("utf-8-sig", "surrogateescape").strip()
    if extension == ".cls" and text.isascii() and text.isdecimal():
        return int(text)
    if extension != ".json":
        return normal_name(text) or None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    values = [content.get(key) for key in _JSON_KEYS] if isinstance(content, dict) else [content]
    # pandas writes the integers of a column with gaps as 3.0, and the gaps as NaN
    values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    found = next((v for v in values if isinstance(v, int | str) and not isinstance(v, bool)), None)
    return normal_name(found) if isinstance(found, str) else found


def pack_index(index: ShardIndex, about: dict[str, Any]) -> bytes:
    """Return the content of an index file, which `unpack_index` reads; `about` identifies what the index was built
    from."""
    text = json.dumps({**about, "classes": index.classes}).encode()
    columns = {"names_text": index.names.text, "names_end": index.names.ends}
    columns |= {name: getattr(index, name) for name in ("tar", "offset", "size", "target")}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, about=np.frombuffer(text, dtype=np.uint8), **columns)
    return buffer.getvalue()


def unpack_index(data: bytes) -> tuple[ShardIndex, dict[str, Any]]:
    """Read the result of `pack_index`. Nothing in it is trusted: raises ValueError unless all its rows lie within its
    tars and classes. Version 1 has the same columns, but may group the samples of tars from other programs
    differently."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")  # a small file could expand to a huge one
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            columns = {name: arrays[name] for name in _DTYPES}
            text = arrays["names_text"]
        if about["version"] not in (1, _VERSION):
            raise ValueError(f"it has version {about['version']!r}")
        sizes = np.array([size for _, size, _ in about["tars"]], dtype=np.int64)
        classes = tuple(map(normal_name, about.pop("classes")))
        _check(columns, sizes, text=text, num_classes=len(classes))
        names = FlatTexts(text, columns.pop("names_end"))
        return ShardIndex(tars=tuple(row[0] for row in about["tars"]), classes=classes, names=names, **columns), about
    except Exception as error:  # zipfile and numpy raise almost any exception for damaged data
        raise ValueError(f"it is damaged or not a rexnet index ({error})") from error


def _check(columns: dict[str, np.ndarray], tar_sizes: np.ndarray, *, text: np.ndarray, num_classes: int) -> None:
    tar, offset, size, target, ends = columns.values()
    dtypes = {name: column.dtype for name, column in columns.items()}
    if dtypes != _DTYPES or text.dtype != np.uint8 or {column.shape for column in columns.values()} != {(tar.size,)}:
        raise ValueError("its columns have other types or lengths")
    inside = (tar >= 0) & (tar < len(tar_sizes)) & (target >= 0) & (target < num_classes) & (size >= 0)
    if not inside.all() or (offset < BLOCK_BYTES).any() or (offset > tar_sizes[tar] - size).any():
        raise ValueError("a row lies outside its tar or has an unknown class")
    if (np.diff(ends, prepend=0) < 0).any() or ends[-1:].sum() > text.size:
        raise ValueError("the names are not in order")
