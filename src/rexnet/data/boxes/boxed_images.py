"""Images with named boxes, as the readers of VOC and YOLO return them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from rexnet.data.boxes.coco_annotations import check_box
from rexnet.data.decode import open_image, stored_size_px
from rexnet.errors import BadImageError
from rexnet.processes import in_parallel
from rexnet.text import printable, reason_of

Split = Literal["train", "val", "test"]
SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
"""Names of the folders of each split."""
MOST_SKIPPED = 0.1
"""Fraction of skipped images above which reading a dataset fails."""
Size = tuple[int, int]
"""Width and height in pixels."""


class NamedBox(NamedTuple):
    """A box with a class name: x, y of the upper left corner, width and height in pixels, counted from 0; `polygon`, if
    any, as x, y, x, y, ... `ignored`: neither trained on nor counted as missed."""

    name: str
    box: tuple[float, float, float, float]
    polygon: tuple[float, ...] | None = None
    ignored: bool = False


class BoxedImage(NamedTuple):
    """An image with boxes; `file_name`, with /, is relative to the folder of its split."""

    path: str
    file_name: str
    size_px: Size
    boxes: list[NamedBox]


class Skipped(NamedTuple):
    """An unusable image, or labels without an image, and the number of objects lost."""

    file: str
    objects: int
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.file)}: {self.reason}"


class Labels(Protocol):
    """Reader of the labels of an image."""

    def read(self, image: str, upright_px: Size, stored_px: Size) -> tuple[Size, list[NamedBox]]:
        """Return the size of the image that the boxes refer to, and the boxes. Raise ValueError or OSError with the
        reason if they cannot be read."""
        ...

    def count(self, image: str) -> int:
        """Return the number of objects of an unusable image, counting only those that can be read."""
        ...


@dataclass(kw_only=True)
class BoxedImages:
    """Images by split, None if the data has no splits. Images with unreadable labels are skipped, because their objects
    would be learned as background."""

    classes: tuple[str, ...] = ()
    splits: dict[Split | None, list[BoxedImage]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences that describe how ambiguous data was read."""

    def read(
        self, split: Split | None, paths: Sequence[str], labels: Labels, *, root: str | Path, workers: int
    ) -> None:
        """Add the images of a split, with names relative to `root`."""
        images = self.splits.setdefault(split, [])
        sizes = in_parallel(_sizes_px, paths, workers=workers, label="reading images") if paths else ()
        for path, found in zip(paths, sizes, strict=True):
            try:
                if isinstance(found, str):
                    raise ValueError(found)
                size_px, boxes = labels.read(path, *found)
                for box in boxes:
                    check_box(box.box, *size_px)
            except (OSError, ValueError) as error:
                self.skipped.append(Skipped(path, labels.count(path), reason_of(error)))
                continue
            images.append(BoxedImage(path, Path(path).relative_to(root).as_posix(), size_px, boxes))
        for other, before in self.splits.items():
            if other != split and (both := len({image.path for image in before}.intersection(paths))):
                self.notes.append(f"{both:,} of {len(paths):,} images of {split} are also in {other}")

    def once(self, split: Split | None, names: Sequence[str]) -> list[str]:
        """Return each listed name once, and note the repetitions, which some tools take as weights."""
        unique = list(dict.fromkeys(names))
        if repeated := len(names) - len(unique):
            line = "1 line repeats" if repeated == 1 else f"{repeated:,} lines repeat"
            self.notes.append(f"{line} an image of {split or 'the list'}; each image is used once")
        return unique

    def stand_in_for_val(self) -> None:
        """Use the test split for validation if there is no validation split."""
        if "val" not in self.splits and self.splits.get("test") and "train" in self.splits:
            self.splits["val"] = self.splits.pop("test")
            self.notes.append("there is no validation split, so the test split is used as one")


def _sizes_px(path: str) -> tuple[Size, Size] | str:
    """Return the upright and the stored size of an image, or the reason why it cannot be read. The image is decoded,
    because some formats store the orientation at the end."""
    try:
        return open_image(path).size, stored_size_px(path)
    except BadImageError as error:
        return error.reason
