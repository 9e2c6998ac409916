"""A split that was drawn from data without one of its own, and how the very data is known again."""

import hashlib
import os
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from rexnet.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class DrawnSplit:
    """Which images were held back: those that `stratified_split` draws from the whole set."""

    val_fraction: float
    seed: int
    fingerprint: str
    """Of the whole set, see `fingerprint`."""

    @property
    def words(self) -> str:
        return f"{100 * self.val_fraction:g} % of each class held back, seed {self.seed}"

    def fits(self, images: ImageSet) -> bool:
        """Whether `images` are the whole set that was split."""
        return fingerprint(images) == self.fingerprint

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


def fingerprint(images: ImageSet) -> str:
    """SHA-256 over the class and name of each image, sorted, without the folder that all names begin with: a set keeps
    it when it is moved, and loses it with any image that comes, goes, or changes its class or name.

    What is in the files does not count: reading all of them could take hours.
    """
    names = [images.name(index).replace(os.sep, "/") for index in range(len(images))]
    # Unlike commonpath, this leaves the spelling of a path (./, //) alone, and so its length.
    folder = os.path.commonprefix(names).rpartition("/")[0]  # noqa: RUF071
    start = len(folder) + 1 if folder else 0
    lines = sorted(
        f"{images.classes[target]}\0{name[start:]}\n"
        for target, name in zip(images.targets.tolist(), names, strict=True)
    )
    # File names need not be text; Python writes their bytes as lone surrogates.
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
