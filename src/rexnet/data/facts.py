"""Facts about a dataset: to display, and to compare when a run or search is resumed."""

import os
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from rexnet.text import quantity

_COMPARED = ("train_images", "val_images", "train_boxes", "val_boxes", "classes", "category_ids", "fingerprint")


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Counts, split and fingerprint of a training and a validation split."""

    title: str
    """Display name of the dataset."""
    train_images: int
    val_images: int
    classes: tuple[str, ...]
    """Class names in the order of the model's outputs."""
    split: str | None = None
    """Origin of the splits for display; None if there is nothing to display."""
    val_fraction: float | None = None
    """Fraction of each class in a random validation split; None for data with its own split."""
    split_seed: int | None = None
    """Seed of a random validation split."""
    train_objects: int | None = None
    """Objects of a detection dataset without crowds; None for labelled images."""
    val_objects: int | None = None
    train_crowds: int | None = None
    """Crowds of a detection dataset; None also if an older version counted them as objects."""
    val_crowds: int | None = None
    category_ids: tuple[int, ...] | None = None
    """COCO category id of each class; None for labelled images."""
    fingerprint: str | None = None
    """SHA-256 of both splits; None if an older version recorded none."""
    path: str | None = None
    """Absolute path of local data; None for a named dataset or a URL."""

    @property
    def train_boxes(self) -> int | None:
        """Number of training objects, crowds included."""
        return None if self.train_objects is None else self.train_objects + (self.train_crowds or 0)

    @property
    def val_boxes(self) -> int | None:
        """Number of validation objects, crowds included."""
        return None if self.val_objects is None else self.val_objects + (self.val_crowds or 0)

    @property
    def description(self) -> str:
        """Return the sizes and split in one line."""
        sizes = f"{self.title}: {self.train_images:,} train / {self.val_images:,} val"
        classes = quantity(len(self.classes), "class")
        if self.train_objects is None:
            return f"{sizes} images of {classes} ({self.split})"
        return f"{sizes} images with {self.train_objects:,} / {self.val_objects:,} objects of {classes}"

    def locate(self, data: str) -> str:
        """Return DATA as given, or its absolute path if the current folder has changed."""
        return data if self.path is None or os.path.isabs(data) or os.path.exists(data) else self.path

    def differences(self, other: Self) -> list[str]:
        """Return the names of the facts that differ from those of `other`; the path, the title and facts that an older
        version did not record are not compared."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in _COMPARED}
        return [name for name, (mine, theirs) in pairs.items() if None not in (mine, theirs) and mine != theirs]

    def refuse_other(self, other: Self, *, subject: str) -> None:
        """Raise ValueError unless `self`, the current data, is `other`, the data that `subject` started with."""
        if changed := self.differences(other):
            names = ", ".join(name.replace("_", " ") for name in changed)
            raise ValueError(
                f"the data is not what {subject} started with ({names} differ): {self.description}, instead of "
                f"{other.description}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read the values of `to_dict`, or the sentence that versions up to 0.1 wrote. Raise ValueError for anything
        else."""
        if "description" in values:
            return cls._from_sentence(**values)
        names = {field.name for field in fields(cls)}
        if missing := {"title", "train_images", "val_images", "classes"} - values.keys():
            raise ValueError(f"the facts about the data lack {', '.join(sorted(missing))}")
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in names
        }
        return cls(**known)

    @classmethod
    def _from_sentence(
        cls, *, description: str, classes: list[str], category_ids: list[int] | None = None, **_: Any
    ) -> Self:
        number = r"([\d,]+)"
        found = re.fullmatch(
            rf"(?s)(.*?): {number} train / {number} val "
            rf"(?:images of .*? classes \((.*)\)(?:, {number} val images measured on)?"
            rf"|with {number} / {number} objects of .*)",
            description,
        )
        if found is None:
            raise ValueError(f"the data is described as {description!r}, which no version of rexnet wrote")
        title, train, val, split, measured, train_objects, val_objects = found.groups()

        def count(text: str | None) -> int | None:
            return None if text is None else int(text.replace(",", ""))

        return cls(
            title=title,
            train_images=int(train.replace(",", "")),
            val_images=int((measured or val).replace(",", "")),
            classes=tuple(classes),
            split=split,
            train_objects=count(train_objects),
            val_objects=count(val_objects),
            category_ids=None if category_ids is None else tuple(category_ids),
        )
