"""Writing of labelled images to tars of the WebDataset format: a few large files instead of many small ones."""

import io
import json
import logging
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from rexnet.data.datasets.opening import open_dataset
from rexnet.data.datasets.shard_index import index_file, keep_index
from rexnet.data.datasets.shards import CLASSES_FILE, SHARDS_FILE, SHARDS_FORMAT, UNFINISHED_MARK, WRITTEN_SPLITS
from rexnet.data.decode import BadImagePolicy, open_image
from rexnet.data.image_set import ImageSet
from rexnet.errors import BadImageError, require_at_least
from rexnet.files import check_new_folder, check_outside, write_whole
from rexnet.options import Readers, positional
from rexnet.processes import in_parallel, usable_cpus
from rexnet.text import printable, reason_of

logger = logging.getLogger(__name__)

IMAGES_PER_SHARD = 2000
_TAR_OVERHEAD_BYTES = 2048  # two headers, the label and padding
_WRITTEN_FILES = (
    *(pattern for split in WRITTEN_SPLITS for pattern in (f"{split}/*.tar", f"{split}/*.tar.*.unfinished")),
    *(pattern for split in WRITTEN_SPLITS for pattern in (index_file(split), f".{index_file(split)}.*.unfinished")),
    *(CLASSES_FILE, SHARDS_FILE, f".{SHARDS_FILE}.*.unfinished"),
)


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Pack labelled images into tars of the WebDataset format, in a random order."""

    data: Annotated[str, positional("DATA")]
    """Data to pack: anything that `rexnet train` takes."""
    output: Annotated[str, positional("OUTPUT")]
    """A new or empty folder for the tars."""
    images_per_shard: int | None = None
    """Images per tar; None: 2000, or as many as --shard-size-mb allows."""
    shard_size_mb: float | None = None
    """Maximum size of a tar in MB (10**6 bytes), instead of a number of images."""
    val_fraction: float | None = None
    """Fraction of each class in the validation split, for data without splits; None: a fifth."""
    seed: int = 0
    """Random seed of the image order and of the validation split."""
    bad_image: BadImagePolicy = "error"
    workers: Readers = None

    def __post_init__(self) -> None:
        if self.images_per_shard is not None and self.shard_size_mb is not None:
            raise ValueError("--images-per-shard and --shard-size-mb exclude each other; give one of them")
        require_at_least(self, 1, "images_per_shard")
        require_at_least(self, 0.001, "shard_size_mb")
        require_at_least(self, 0, "seed", "workers")


class WrittenShards(NamedTuple):
    """Result of packing: `images` and `shards` by split; `skipped` are the names of images that could not be read."""

    images: dict[str, int]
    shards: dict[str, int]
    skipped: list[str]


def write_shards(config: ShardConfig) -> WrittenShards:
    """Write OUTPUT/{train,val}/NNNNNN.tar, classes.txt, shards.json and an index of each split.

    A sample is the image's unchanged file (PNG for images that have no file) and its class index as text, under a key
    made of its number in this order and the plain characters of its name. Raise ValueError for an output that is not
    empty or lies within the data, and BadImageError depending on `bad_image`. A marker file stays in OUTPUT until
    everything is written; a restart after a kill clears the folder and starts over.
    """
    check_outside(config.output, config.data)
    sets = open_dataset(config.data).for_training(val_fraction=config.val_fraction, seed=config.seed)
    if unwritable := [name for name in sets.classes if not name or len(name.splitlines()) != 1]:
        raise ValueError(f"the class name {printable(unwritable[0])!r} does not fit into a line of {CLASSES_FILE}")
    output = Path(config.output)
    _prepare(output)
    classes_text = "".join(f"{name}\n" for name in sets.classes)
    (output / CLASSES_FILE).write_text(classes_text, encoding="utf-8", errors="surrogateescape")
    skipped: list[str] = []
    tars = {
        split: _write_split(output, split, images=images, config=config, skipped=skipped)
        for split, images in zip(WRITTEN_SPLITS, (sets.train, sets.val), strict=True)
    }
    about = {"format": SHARDS_FORMAT, "classes": sets.classes, "seed": config.seed, "sides": tars}
    write_whole(output / SHARDS_FILE, json.dumps(about, indent=1))
    (output / UNFINISHED_MARK).unlink()
    images = {split: sum(tar["images"] for tar in rows) for split, rows in tars.items()}
    return WrittenShards(images, {split: len(rows) for split, rows in tars.items()}, skipped)


def _prepare(output: Path) -> None:
    """Make an empty folder with the marker file; the files of an unfinished earlier run are removed."""
    if (output / UNFINISHED_MARK).exists():
        for file in (file for pattern in _WRITTEN_FILES for file in output.glob(pattern)):
            file.unlink()
        for folder in (output / split for split in WRITTEN_SPLITS if (output / split).is_dir()):
            folder.rmdir()
    check_new_folder(output, own=(UNFINISHED_MARK,))
    output.mkdir(parents=True, exist_ok=True)
    (output / UNFINISHED_MARK).touch()


def _write_split(
    output: Path, split: str, *, images: ImageSet, config: ShardConfig, skipped: list[str]
) -> list[dict[str, Any]]:
    """Write the tars and the index of one split; return its entry in shards.json."""
    (output / split).mkdir()
    order = np.random.default_rng([config.seed, WRITTEN_SPLITS.index(split)]).permutation(len(images))
    write = _ShardWriter(images, order, folder=os.fspath(output / split), bad_image=config.bad_image)
    cuts = _cut(images, order, config)
    workers = usable_cpus() if config.workers is None else config.workers
    tars = []
    for (number, _), (count, errors) in zip(
        cuts, in_parallel(write, cuts, workers=workers if len(cuts) > 1 else 0, label=split), strict=True
    ):
        for error in errors:
            if config.bad_image == "error" or not isinstance(error, BadImageError):
                raise error
            logger.warning("skipped: %s", error)
            skipped.append(error.path)
        if count:
            tars.append({"file": f"{split}/{_tar_name(number)}", "images": count})
    if not tars:
        raise ValueError(f"none of the {len(images):,} images in {split} can be read")
    keep_index(os.fspath(output), split, tars=[tar["file"] for tar in tars], classes=images.classes, required=True)
    return tars


def _cut(images: ImageSet, order: np.ndarray, config: ShardConfig) -> list[tuple[int, range]]:
    """Return the number of each shard and its positions in `order`."""
    if config.shard_size_mb is None:
        starts = list(range(0, len(order), config.images_per_shard or IMAGES_PER_SHARD))
    else:
        starts, filled = [0], 0
        for position, index in enumerate(order.tolist()):
            size = _file_bytes(images, index) + _TAR_OVERHEAD_BYTES
            if filled and filled + size > config.shard_size_mb * 1e6:
                starts.append(position)
                filled = 0
            filled += size
    return list(enumerate(map(range, starts, [*starts[1:], len(order)])))


class _ShardWriter:
    """Writer of a shard, in this process or in a worker; a call returns the number of images written. Errors are
    returned, not raised: an exception would arrive from a worker wrapped in its traceback."""

    def __init__(self, images: ImageSet, order: np.ndarray, *, folder: str, bad_image: BadImagePolicy):
        self._images, self._order, self._folder, self._bad_image = images, order, folder, bad_image

    def __call__(self, cut: tuple[int, range]) -> tuple[int, list[BadImageError | OSError]]:
        number, positions = cut
        path = os.path.join(self._folder, _tar_name(number))
        unfinished = f"{path}.{os.getpid()}.unfinished"  # a killed process may still write its own
        errors: list[BadImageError | OSError] = []
        try:
            # Plain ustar: keys are short ASCII, and every reader knows it.
            with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
                written = self._fill(tar, positions, errors)
            if written:
                os.replace(unfinished, path)
            else:
                os.unlink(unfinished)
        except OSError as error:
            return 0, [OSError(f"{path}: {reason_of(error).lower()}")]
        return written, errors

    def _fill(self, tar: tarfile.TarFile, positions: range, errors: list[BadImageError | OSError]) -> int:
        written = 0
        for position in positions:
            index = int(self._order[position])
            try:
                data, extension = _file_of(self._images, index)
                open_image(data)
            except BadImageError as error:
                errors.append(BadImageError(self._images.name(index), error.reason))
                if self._bad_image == "error":
                    break
                continue
            key = f"{position:08d}-{_plain_stem(self._images.name(index))}"
            for name, content in ((f"{key}{extension}", data), (f"{key}.cls", b"%d" % self._images.targets[index])):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            written += 1
        return written


def _tar_name(number: int) -> str:
    return f"{number:06d}.tar"


def _file_of(images: ImageSet, index: int) -> tuple[bytes, str]:
    """Return the image's file and its extension in lower case; an image without a file becomes a PNG."""
    source, extension = images.source(index), os.path.splitext(images.name(index))[1].lower()
    if isinstance(source, bytes):
        return source, extension
    if isinstance(source, str):
        try:
            return Path(source).read_bytes(), extension
        except OSError as error:
            raise BadImageError(source, reason_of(error).lower()) from error
    buffer = io.BytesIO()
    source.save(buffer, "PNG")
    return buffer.getvalue(), ".png"


def _file_bytes(images: ImageSet, index: int) -> int:
    source = images.source(index)
    if isinstance(source, str):
        return os.path.getsize(source) if os.path.exists(source) else 0
    return len(_file_of(images, index)[0])


def _plain_stem(name: str) -> str:
    """Return the part of the file's name that is safe as a key: without dots, at which readers split, and without
    characters that are special to a file system or shell."""
    stem = re.split(r"[/\\]", name)[-1].rpartition(".")[0] or name.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:48]
