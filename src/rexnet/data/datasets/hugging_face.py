"""Image datasets of the Hugging Face `datasets` library by name or folder, written hfds/NAME as in timm."""

import os
from typing import Any, final

import numpy as np

from rexnet.data.image_set import ImageSet
from rexnet.data.splits import TRAIN_SPLIT, VAL_SPLITS
from rexnet.errors import BadImageError, MissingPackageError
from rexnet.models.hub import hub_answers

HUGGING_FACE_PREFIX = "hfds/"


@final
class HuggingFaceImages(ImageSet):
    """One split of a dataset: `rows` has images, still encoded, in the column `image_column`."""

    def __init__(self, rows: Any, targets: np.ndarray, classes: list[str], *, image_column: str, label: str):
        super().__init__(targets, classes)
        self._table, self._image_column, self._label = rows, image_column, label

    def source(self, index: int) -> bytes | str:
        stored = self._table[int(self._rows[index])][self._image_column]
        source = stored and (stored["bytes"] or stored["path"])
        if not source:
            raise BadImageError(self.name(index), "the row has no image")
        return source

    def name(self, index: int) -> str:
        return f"{self._label}/{self._rows[index]}"


def load_hugging_face(data: str) -> dict[str, HuggingFaceImages]:
    """Load the splits "train" and "val" of `hfds/NAME`, or the one that exists; NAME is a dataset on the Hub or the
    path of a folder that `datasets.load_dataset` reads. It must have exactly one column of images and one of class
    labels, or of class names called label. Raise ValueError for a dataset that cannot be loaded or has other columns.
    """
    try:
        from datasets import config, load_dataset
    except ImportError as error:
        raise MissingPackageError(data, "datasets", "'rexnet[huggingface]'") from error
    name, offline = data.removeprefix(HUGGING_FACE_PREFIX), config.HF_HUB_OFFLINE
    try:
        # The library would try an unreachable Hub for half a minute before it uses its cached copy.
        config.HF_HUB_OFFLINE = offline or not (os.path.isdir(name) or hub_answers())
        loaded: Any = load_dataset(name)
    except Exception as error:  # the errors of the Hub, file readers and cache have no common base
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{data} cannot be loaded ({reason}); allowed: the name of a dataset on the Hub, or a folder"
        ) from error
    finally:
        config.HF_HUB_OFFLINE = offline
    val_split = next((name for name in VAL_SPLITS if name in loaded), None)
    splits = {"train": TRAIN_SPLIT if TRAIN_SPLIT in loaded else None, "val": val_split}
    found = {split: _split(data, loaded[name], split=name) for split, name in splits.items() if name}
    if not found:
        raise ValueError(f"{data} has the splits {', '.join(loaded)}, but needs one named train")
    return found


def _split(data: str, rows: Any, *, split: str) -> HuggingFaceImages:
    import datasets

    image = _only_column(data, rows, kind=datasets.Image, what="images")
    rows = _with_class_labels(rows)
    label = _only_column(data, rows, kind=datasets.ClassLabel, what="class labels")
    targets = np.asarray(rows.with_format("numpy")[label][:])
    if not (targets >= 0).all():  # a missing one is NaN
        raise ValueError(f"{data} has images without a label in its split {split}")
    encoded = rows.cast_column(image, datasets.Image(decode=False)).select_columns([image])
    classes = rows.features[label].names
    return HuggingFaceImages(encoded, targets.astype(np.int64), classes, image_column=image, label=f"{data}/{split}")


def _with_class_labels(rows: Any) -> Any:
    """Return the rows with a column `label` of names as class labels, which metadata.csv and Parquet files hold as
    text."""
    import datasets

    labelled = any(isinstance(feature, datasets.ClassLabel) for feature in rows.features.values())
    feature = rows.features.get("label")
    text = isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
    return rows.class_encode_column("label") if text and not labelled else rows


def _only_column(data: str, rows: Any, *, kind: type, what: str) -> str:
    columns = [name for name, feature in rows.features.items() if isinstance(feature, kind)]
    if len(columns) != 1:
        held = f"{len(columns)} ({', '.join(columns)})" if columns else "none"
        raise ValueError(
            f"{data} must have one column of {what}, but has {held} among {', '.join(rows.features)}; make a copy with "
            "one, by remove_columns, class_encode_column and to_parquet of the datasets library"
        )
    return columns[0]
