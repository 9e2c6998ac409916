"""Labelled images into tars of the WebDataset format: a few large files in place of many small ones."""

import io
import json
import logging
import os
import re
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from rexnet.data.datasets.opening import open_dataset
from rexnet.data.datasets.shard_index import build_index, pack_index, tar_states
from rexnet.data.datasets.shards import (
    CLASSES_FILE,
    SHARDS_FILE,
    SHARDS_FORMAT,
    UNFINISHED_MARK,
    WRITTEN_SPLITS,
    ShardImages,
    index_file,
)
from rexnet.data.decode import BadImagePolicy, open_image
from rexnet.data.image_set import FileImages, ImageSet
from rexnet.errors import BadImageError, require
from rexnet.files import write_whole
from rexnet.processes import in_parallel, usable_cpus
from rexnet.text import printable, reason_of

logger = logging.getLogger(__name__)

IMAGES_PER_SHARD = 2000
_TAR_OVERHEAD_BYTES = 2048  # two headers, the label and padding


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Writes labelled images into tars of the WebDataset format, in a mixed order."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """What to pack: anything that `rexnet train` takes."""
    output: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """A new or empty folder for the tars."""
    images_per_shard: int | None = None
    """Images in a tar; None: 2000, or as --shard-size-mb says."""
    shard_size_mb: float | None = None
    """Largest size of a tar in MB (10**6 bytes), in place of a number of images."""
    val_fraction: float | None = None
    """Share of every class that is held back where the data has no split of its own; None: a fifth."""
    seed: int = 0
    """Decides the order of the images, and which are held back."""
    bad_image: BadImagePolicy = "error"
    """What to do with a file that cannot be read: stop and name it, or leave it out, name and count it."""
    workers: int | None = None
    """Processes that check and write images; None: as many as CPUs, 0: none beside the main one."""

    def __post_init__(self) -> None:
        if self.images_per_shard is not None and self.shard_size_mb is not None:
            raise ValueError("--images-per-shard and --shard-size-mb exclude each other; give one of them")
        for name, least in (("images_per_shard", 1), ("shard_size_mb", 0.001), ("seed", 0), ("workers", 0)):
            value = getattr(self, name)
            require(value is None or value >= least, name, value, f"{least} or more")


class WrittenShards(NamedTuple):
    """`images` and `shards` by side; `skipped` are the names of images that could not be read."""

    images: dict[str, int]
    shards: dict[str, int]
    skipped: list[str]


def write_shards(config: ShardConfig) -> WrittenShards:
    """OUTPUT/{train,val}/NNNNNN.tar, classes.txt, shards.json and an index of each side.

    A sample is the picture's file as it is (PNG for pictures that have no file) and its class index as text, under a
    key that is its number in this order and what is plain in its name. Raises ValueError for an output that is not
    empty or lies in the data, and BadImageError as `bad_image` says. Until all is written OUTPUT holds a mark; a second
    start after a kill clears it and begins anew.
    """
    _refuse_inside(config.output, config.data)
    sets = open_dataset(config.data).for_training(val_fraction=config.val_fraction, seed=config.seed)
    if unwritable := [name for name in sets.classes if not name or len(name.splitlines()) != 1]:
        raise ValueError(f"the class name {printable(unwritable[0])!r} does not fit into a line of {CLASSES_FILE}")
    output = Path(config.output)
    _prepare(output)
    classes_text = "".join(f"{name}\n" for name in sets.classes)
    (output / CLASSES_FILE).write_text(classes_text, encoding="utf-8", errors="surrogateescape")
    about: dict[str, Any] = {"format": SHARDS_FORMAT, "classes": sets.classes, "seed": config.seed, "sides": {}}
    skipped: list[str] = []
    for side, images in zip(WRITTEN_SPLITS, (sets.train, sets.val), strict=True):
        about["sides"][side] = _write_side(output, side, images=images, config=config, skipped=skipped)
    write_whole(output / SHARDS_FILE, json.dumps(about, indent=1).encode())
    (output / UNFINISHED_MARK).unlink()
    return WrittenShards(
        images={side: sum(tar["images"] for tar in tars) for side, tars in about["sides"].items()},
        shards={side: len(tars) for side, tars in about["sides"].items()},
        skipped=skipped,
    )


def _refuse_inside(output: str, data: str) -> None:
    inner, outer = Path(output).resolve(), Path(data).resolve()
    if os.path.isdir(data) and outer in (inner, *inner.parents):
        raise ValueError(
            f"{printable(output)} lies in {printable(data)}, where it would count as images; choose another"
        )


def _prepare(output: Path) -> None:
    """An empty folder with the mark; what an earlier start with the mark left is removed."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{printable(output)} is a file; name a new or an empty folder")
    mark = output / UNFINISHED_MARK
    if mark.exists():
        for side in WRITTEN_SPLITS:
            for file in [*(output / side).glob("*.tar"), *(output / side).glob("*.tar.*.unfinished")]:
                file.unlink()
            if (output / side).is_dir():
                (output / side).rmdir()
        for name in (CLASSES_FILE, SHARDS_FILE, *map(index_file, WRITTEN_SPLITS)):
            for file in [output / name, *output.glob(f".{name}.*.unfinished")]:
                file.unlink(missing_ok=True)
    if output.is_dir() and (others := sorted(set(os.listdir(output)) - {UNFINISHED_MARK})):
        raise ValueError(
            f"{printable(output)} holds other files, such as {printable(others[0])}; name a new or an empty folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _write_side(
    output: Path, side: str, *, images: ImageSet, config: ShardConfig, skipped: list[str]
) -> list[dict[str, Any]]:
    """Tars and index of one side; its entry of shards.json."""
    (output / side).mkdir()
    order = np.random.default_rng([config.seed, WRITTEN_SPLITS.index(side)]).permutation(len(images))
    write = _ShardWriter(images, order, folder=os.fspath(output / side), bad_image=config.bad_image)
    cuts = _cuts(images, order, config)
    workers = usable_cpus() if config.workers is None else config.workers
    tars = []
    for written in in_parallel(write, cuts, workers=workers if len(cuts) > 1 else 0, label=side):
        if written.failure:
            raise OSError(written.failure)
        for name, reason in written.bad:
            if config.bad_image == "error":
                raise BadImageError(name, reason)
            logger.warning("left out: %s", BadImageError(name, reason))
            skipped.append(name)
        if written.images:
            tars.append({"file": f"{side}/{written.file}", "images": written.images})
    if not tars:
        raise ValueError(f"none of the {len(images):,} images in {side} can be read")
    names, classes = [tar["file"] for tar in tars], images.classes
    states = tar_states(os.fspath(output), names)
    packed = pack_index(build_index(os.fspath(output), names, classes), states, classes)
    write_whole(output / index_file(side), packed)
    return tars


def _cuts(images: ImageSet, order: np.ndarray, config: ShardConfig) -> list[tuple[int, int, int]]:
    """(number, start, stop) of each shard, positions in `order`."""
    if config.shard_size_mb is None:
        step = config.images_per_shard or IMAGES_PER_SHARD
        starts = list(range(0, len(order), step))
    else:
        starts, filled, limit = [0], 0, config.shard_size_mb * 1e6
        for place, index in enumerate(order.tolist()):
            size = _file_bytes(images, index) + _TAR_OVERHEAD_BYTES
            if filled and filled + size > limit:
                starts.append(place)
                filled = 0
            filled += size
    stops = [*starts[1:], len(order)]
    return [(number, start, stop) for number, (start, stop) in enumerate(zip(starts, stops, strict=True))]


class _Written(NamedTuple):
    file: str
    images: int
    bad: list[tuple[str, str]]  # (name, reason)
    failure: str | None = None


class _ShardWriter:
    """Writes one shard, here or in a worker process. Failures come back as data: an exception would arrive from a
    worker wrapped into its traceback."""

    def __init__(self, images: ImageSet, order: np.ndarray, *, folder: str, bad_image: BadImagePolicy):
        self._images, self._order, self._folder, self._bad_image = images, order, folder, bad_image
        self._main_process = os.getpid()

    def __call__(self, cut: tuple[int, int, int]) -> _Written:
        number, start, stop = cut
        path = os.path.join(self._folder, f"{number:06d}.tar")
        unfinished = f"{path}.{os.getpid()}.unfinished"
        bad: list[tuple[str, str]] = []
        try:
            # Plain ustar: keys are short ASCII, and every reader knows it.
            with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
                written = self._fill(tar, range(start, stop), bad)
            if written:
                os.replace(unfinished, path)
            else:
                os.unlink(unfinished)
        except OSError as error:
            return _Written(path, 0, bad, failure=f"{path}: {reason_of(error).lower()}")
        return _Written(os.path.basename(path), written, bad)

    def _fill(self, tar: tarfile.TarFile, places: range, bad: list[tuple[str, str]]) -> int:
        written = 0
        for place in places:
            if self._main_process not in (os.getpid(), os.getppid()):
                sys.exit()  # a killed main process; the next start must not meet this one's files
            index = int(self._order[place])
            try:
                data, extension = _file_of(self._images, index)
                open_image(data)
            except BadImageError as error:
                bad.append((self._images.name(index), error.reason))
                if self._bad_image == "error":
                    break
                continue
            key = f"{place:08d}-{_plain_stem(self._images.name(index))}"
            _add(tar, f"{key}{extension}", data)
            _add(tar, f"{key}.cls", str(self._images.targets[index]).encode())
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            written += 1
        return written


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _file_of(images: ImageSet, index: int) -> tuple[bytes, str]:
    """The picture's file and its extension in lower case; a picture without a file becomes a PNG."""
    source, extension = images.source(index), os.path.splitext(images.name(index))[1].lower()
    if isinstance(source, bytes):
        return source, extension
    if isinstance(source, str | Path):
        try:
            return Path(source).read_bytes(), extension
        except OSError as error:
            raise BadImageError(images.name(index), (error.strerror or str(error)).lower()) from error
    buffer = io.BytesIO()
    source.save(buffer, "PNG")
    return buffer.getvalue(), ".png"


def _file_bytes(images: ImageSet, index: int) -> int:
    if isinstance(images, ShardImages):
        return images.encoded_bytes(index)
    if isinstance(images, FileImages):
        name = images.name(index)
        return os.path.getsize(name) if os.path.exists(name) else 0
    return len(_file_of(images, index)[0])


def _plain_stem(name: str) -> str:
    """What of the file's name is safe as a key: no dot, at which readers split, and nothing that a file system or a
    shell treats differently."""
    stem = re.split(r"[/\\]", name)[-1].rpartition(".")[0] or name.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:48]
