"""The training and the validation split, how they are drawn, and the fingerprint of a dataset."""

import hashlib
import os
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np

from rexnet.data.facts import DataFacts
from rexnet.data.image_set import ImageSet
from rexnet.text import normal_name

TRAIN_SPLIT = "train"
VAL_SPLITS = ("val", "valid", "validation", "test")
"""What the validation split may be called; the first of these that is there counts."""
SPLITS = (TRAIN_SPLIT, *VAL_SPLITS)


def stratified_split(targets: np.ndarray, val_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (train, validation), each ascending: of every class the rounded fraction, but at least one image on
    either side; a class with one image keeps it for training."""
    random = np.random.default_rng(seed)
    in_val = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        count = min(max(round(len(members) * val_fraction), 1), len(members) - 1)
        in_val[random.permutation(members)[:count]] = True
    return np.flatnonzero(~in_val), np.flatnonzero(in_val)


@dataclass(frozen=True, kw_only=True)
class DrawnSplit:
    """The validation split that `stratified_split` draws from a whole dataset."""

    val_fraction: float
    seed: int
    fingerprint: str
    """Of the whole dataset, see `fingerprint`."""

    @property
    def words(self) -> str:
        return f"{100 * self.val_fraction:g} % of each class held back, seed {self.seed}"

    def fits(self, images: ImageSet) -> bool:
        """Whether `images` are the whole dataset that was divided."""
        return fingerprint(images) == self.fingerprint

    def draw(self, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
        """Positions of `images` (train, validation)."""
        return stratified_split(images.targets, self.val_fraction, self.seed)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The reverse of `to_dict`. ValueError for anything else."""
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            raise ValueError(f"a split must have {', '.join(names)}, but is {values!r:.80}")
        split = cls(**values)
        if not (isinstance(split.val_fraction, float) and 0 < split.val_fraction < 1):
            raise ValueError(f"the split's val_fraction is {split.val_fraction!r}, but must be between 0 and 1")
        if not (isinstance(split.seed, int) and split.seed >= 0):
            raise ValueError(f"the split's seed is {split.seed!r}, but must be 0 or more")
        return split


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """Both splits have the same `classes`; `drawn` is the split where it was not the data's own."""

    train: ImageSet
    val: ImageSet
    title: str
    """Name of the dataset, for people."""
    split: str
    """How the splits came about, for people."""
    drawn: DrawnSplit | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def description(self) -> str:
        """Sizes and split in one line."""
        return self._facts().description

    def facts(self) -> DataFacts:
        """Counts, split and fingerprint, for a run or a search to note."""
        both = f"{fingerprint(self.train)} {fingerprint(self.val)}"
        return replace(self._facts(), fingerprint=hashlib.sha256(both.encode()).hexdigest())

    def _facts(self) -> DataFacts:
        return DataFacts(
            title=self.title,
            train_images=len(self.train),
            val_images=len(self.val),
            classes=self.classes,
            split=self.split,
            val_fraction=self.drawn and self.drawn.val_fraction,
            split_seed=self.drawn and self.drawn.seed,
        )


def fingerprint(images: ImageSet) -> str:
    """Return the SHA-256 over the class and name of each image, sorted, without the folder that all names begin with: a
    dataset keeps it when it is moved, and loses it with any image that comes, goes, or changes its class or name.

    What is in the files does not count: reading all of them could take hours.
    """
    names = [normal_name(images.name(index)).replace(os.sep, "/") for index in range(len(images))]
    # Unlike commonpath, this leaves the spelling of a path (./, //) alone, and so its length.
    folder = os.path.commonprefix(names).rpartition("/")[0]  # noqa: RUF071
    start = len(folder) + 1 if folder else 0
    lines = sorted(
        f"{normal_name(images.classes[target])}\0{name[start:]}\n"
        for target, name in zip(images.targets.tolist(), names, strict=True)
    )
    # File names need not be text; Python writes their bytes as lone surrogates.
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
