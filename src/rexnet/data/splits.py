"""Random draws of images (a validation split, shots, balanced epochs), class weights, and a dataset's fingerprint."""

import hashlib
import logging
import os
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np

from rexnet.data.facts import DataFacts
from rexnet.data.image_set import ImageSet
from rexnet.text import normal_name, some_names

logger = logging.getLogger(__name__)

TRAIN_SPLIT = "train"
VAL_SPLITS = ("val", "valid", "validation", "test")
"""Names of the validation split; the first one that exists is used."""
SPLITS = (TRAIN_SPLIT, *VAL_SPLITS)
_SHOTS = 1
"""Seed entry that separates the draw of shots from the draw of a split with the same seed."""


def stratified_split(targets: np.ndarray, val_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ascending positions (train, validation): the rounded fraction of every class, but at least one image in
    each split; a class with a single image keeps it for training."""
    random = np.random.default_rng(seed)
    in_val = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        count = min(max(round(len(members) * val_fraction), 1), len(members) - 1)
        in_val[random.permutation(members)[:count]] = True
    return np.flatnonzero(~in_val), np.flatnonzero(in_val)


@dataclass(frozen=True, kw_only=True)
class RandomSplit:
    """The validation split that `stratified_split` draws from a whole dataset."""

    val_fraction: float
    seed: int
    fingerprint: str
    """SHA-256 of the whole dataset, see `fingerprint`."""

    @property
    def description(self) -> str:
        return f"{100 * self.val_fraction:g} % of each class for validation, seed {self.seed}"

    def fits(self, images: ImageSet) -> bool:
        """Return whether `images` are the undivided dataset."""
        return fingerprint(images) == self.fingerprint

    def draw(self, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions in `images` of (train, validation)."""
        return stratified_split(images.targets, self.val_fraction, self.seed)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read the result of `to_dict`. Raise ValueError for anything else."""
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            raise ValueError(f"a split must have {', '.join(names)}, but is {values!r:.80}")
        split = cls(**values)
        if not (isinstance(split.val_fraction, float) and 0 < split.val_fraction < 1):
            raise ValueError(f"the split's val_fraction is {split.val_fraction!r}; allowed: between 0 and 1")
        if not (isinstance(split.seed, int) and split.seed >= 0):
            raise ValueError(f"the split's seed is {split.seed!r}; allowed: 0 or more")
        return split


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """A training and a validation split of the same `classes`; `random_split` if the data has no splits of its own."""

    train: ImageSet
    val: ImageSet
    title: str
    """Display name of the dataset."""
    split: str
    """Origin of the splits for display."""
    random_split: RandomSplit | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def description(self) -> str:
        """Return the sizes and split in one line."""
        return self._facts().description

    def facts(self) -> DataFacts:
        """Return counts, split and fingerprint, for the record of a run or search."""
        both = f"{fingerprint(self.train)} {fingerprint(self.val)}"
        return replace(self._facts(), fingerprint=hashlib.sha256(both.encode()).hexdigest())

    def _facts(self) -> DataFacts:
        return DataFacts(
            title=self.title,
            train_images=len(self.train),
            val_images=len(self.val),
            classes=self.classes,
            split=self.split,
            val_fraction=self.random_split and self.random_split.val_fraction,
            split_seed=self.random_split and self.random_split.seed,
        )


def fingerprint(images: ImageSet) -> str:
    """Return the SHA-256 over the class and name of each image, sorted, without the common folder of all names: it
    stays the same when the dataset is moved, and changes when an image is added, removed, renamed or put into another
    class.

    The content of the files is ignored: reading all of them could take hours.
    """
    names = [normal_name(images.name(index)).replace(os.sep, "/") for index in range(len(images))]
    # Unlike commonpath, this keeps the spelling of a path (./, //), and so its length.
    folder = os.path.commonprefix(names).rpartition("/")[0]  # noqa: RUF071
    start = len(folder) + 1 if folder else 0
    lines = sorted(
        f"{normal_name(images.classes[target])}\0{name[start:]}\n"
        for target, name in zip(images.targets.tolist(), names, strict=True)
    )
    # File names may be undecodable; Python represents their bytes as lone surrogates.
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def class_weights(targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Return float64 (K,): N / (K n) for a class with n of the N images, where K counts the classes with images; the
    others weigh 0. The mean over the images is 1. Source: scikit-learn's "balanced".
    """
    counts = np.bincount(targets, minlength=num_classes)
    filled = counts > 0
    weights = np.zeros(num_classes)
    weights[filled] = len(targets) / (filled.sum() * counts[filled])
    return weights


def balanced_draws(targets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return as many draws as there are images, int64 (N,), in random order: the counts of any two classes, and of any
    two images of a class, differ by at most one. A draw is the position of the image, plus N for each time that it was
    drawn before, so no two draws are the same.
    """
    classes, counts = np.unique(targets, return_counts=True)
    members = np.split(np.argsort(targets, kind="stable"), np.cumsum(counts)[:-1])
    per_class = np.full(len(classes), len(targets) // len(classes))
    per_class[random.permutation(len(classes))[: len(targets) % len(classes)]] += 1
    draws = [
        np.resize(random.permutation(positions), count) + len(targets) * (np.arange(count) // len(positions))
        for positions, count in zip(members, per_class, strict=True)
    ]
    return random.permutation(np.concatenate(draws))


def draw_shots(images: ImageSet, shots: int, seed: int) -> ImageSet:
    """Return `shots` images of each class, in their original order. With the same seed, fewer shots are a subset of
    more. A class with fewer images keeps all of them, and a warning is logged.
    """
    order = np.random.default_rng([_SHOTS, seed]).permutation(len(images))
    order = order[np.argsort(images.targets[order], kind="stable")]
    counts = np.bincount(images.targets, minlength=len(images.classes))
    place_in_class = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
    short = [f"{images.classes[k]} ({counts[k]})" for k in np.flatnonzero(counts < shots)]
    if short:
        logger.warning("classes with fewer than %d images keep all of them: %s", shots, some_names(short))
    return images.subset(np.sort(order[place_in_class < shots]))
