"""Data sets that come in one piece with their labels: tars, and those of the Hugging Face library."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rexnet.data.datasets.hugging_face import HUGGING_FACE_PREFIX, HuggingFaceImages, load_hugging_face
from rexnet.data.datasets.named import stratified_split
from rexnet.data.datasets.shards import ShardImages, is_shards, load_shards
from rexnet.data.image_set import TRAIN_SIDE, VAL_SIDES
from rexnet.errors import BadImageError
from rexnet.text import printable

logger = logging.getLogger(__name__)

_STREAMS = ("tfds/", "wds/", "hfids/")  # timm's names


class PackedSet(NamedTuple):
    """The side to train on and the one to validate on, where the data has it; at least one of them, with the same
    classes. `title` names the data, `sides` states where they come from."""

    train: ShardImages | HuggingFaceImages | None
    val: ShardImages | HuggingFaceImages | None
    title: str
    sides: str


def is_packed_set(data: str | Path) -> bool:
    """Whether `data` is hfds/NAME, a URL, or a folder of tars. Raises ValueError for timm's names of data that comes as
    a stream, where order, ranks and resuming could not be exact."""
    if isinstance(data, str) and data.startswith(HUGGING_FACE_PREFIX):
        return True
    if isinstance(data, str) and data.startswith(_STREAMS) and not os.path.exists(data):
        raise ValueError(
            f"{printable(data)} is timm's name of a stream, in which no image can be asked for by number; give "
            "hfds/NAME, a folder of tars, or the URL of one that `rexnet data shard` wrote"
        )
    return is_shards(data, (TRAIN_SIDE, *VAL_SIDES))


def load_packed_set(data: str | Path) -> PackedSet:
    """What `data`, of which `is_packed_set` holds, has. Raises ValueError for data that cannot be read."""
    if isinstance(data, str) and data.startswith(HUGGING_FACE_PREFIX):
        found = load_hugging_face(data)
        return PackedSet(found.get("train"), found.get("val"), printable(data), "its own split")
    shards, title = load_shards(data, (TRAIN_SIDE, *VAL_SIDES))
    val = next((name for name in VAL_SIDES if name in shards), None)
    train = next((name for name in (TRAIN_SIDE, "") if name in shards), None)
    names = [f"{name}/" for name in (train, val) if name]
    return PackedSet(
        None if train is None else shards[train], None if val is None else shards[val], title, ", ".join(names)
    )


def split_packed_set(
    found: PackedSet, val_fraction: float, seed: int
) -> tuple[ShardImages | HuggingFaceImages, ShardImages | HuggingFaceImages]:
    """(train, validation), drawn from the training side where there is no other. Raises ValueError where there is
    nothing to train on, and for a class without an image to train on."""
    if found.train is None:
        raise ValueError(f"{found.title} has no images to train on, only {found.sides}")
    if found.train.missing_classes:
        some = ", ".join(map(printable, found.train.missing_classes[:5]))
        raise ValueError(
            f"{found.title} has no image to train on of {len(found.train.missing_classes)} classes: {some}"
        )
    if len(found.train.classes) < 2:
        raise ValueError(
            f"{found.title} has one class, {printable(''.join(found.train.classes))}: two or more are needed"
        )
    train, val = found.train, found.val
    if val is None:
        train, val = (found.train.subset(part) for part in stratified_split(found.train.targets, val_fraction, seed))
    if not len(val):
        raise ValueError(
            f"{found.title} has no image to validate on, nor a class with two of which one can be held back"
        )
    if val.missing_classes:
        some = ", ".join(map(printable, val.missing_classes[:5]))
        logger.warning("%d classes are trained on but never validated: %s", len(val.missing_classes), some)
    return train, val


def some_sides_px(found: PackedSet, count: int) -> list[int]:
    """The longer sides in pixels of up to `count` images, evenly taken."""
    images = found.train if found.train is not None else found.val
    sides_px = []
    for index in np.linspace(0, len(images or ()) - 1, count).astype(int).tolist():
        try:
            sides_px.append(max(images.load(index).size) if images is not None else 0)
        except BadImageError:
            continue
    return sides_px
