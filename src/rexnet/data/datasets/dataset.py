"""A dataset: its splits, and the images that a command uses. Data and weights are matched by class name, never by
position, and so are two splits.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, final

import numpy as np

from rexnet.data.boxes.coco import (
    CocoImages,
    CocoSets,
    load_coco_images,
    load_coco_sets,
    refuse_lost_images,
    require_objects,
)
from rexnet.data.datasets.folder import advise_on_nesting, nested_folders
from rexnet.data.decode import BadImagePolicy, stored_size_px
from rexnet.data.image_files import image_files
from rexnet.data.image_set import ImageSet
from rexnet.data.imagenet import name_wordnet_ids
from rexnet.data.splits import TRAIN_SPLIT, VAL_SPLITS, ImageSets, RandomSplit, draw_shots, fingerprint
from rexnet.errors import BadImageError
from rexnet.text import normal_name, plural, printable, some_names

logger = logging.getLogger(__name__)

Kind = Literal["named", "hugging_face", "tars", "boxes", "voc", "yolo", "folder"]
KINDS: dict[Kind, str] = {
    "named": "a named dataset",
    "hugging_face": "a Hugging Face dataset",
    "tars": "a folder of tars",
    "boxes": "a folder in COCO's layout",
    "voc": "a folder in Pascal VOC's layout",
    "yolo": "a folder in YOLO's layout",
    "folder": "a folder of images",
}
"""Kinds of DATA, as they are called in messages."""
DEFAULT_VAL_FRACTION = 0.2
SMALL_IMAGE_PX = 64
_HEADERS_TO_PEEK_AT = 32


@final
@dataclass(frozen=True, kw_only=True)
class Split:
    """Labelled images, read lazily. `name`: its name in the data, "" for data without splits; `where`: the same for
    messages."""

    name: str
    where: str
    read: Callable[[], ImageSet]

    @cached_property
    def images(self) -> ImageSet:
        """Read the images. Raise ValueError if they cannot be read as labelled images."""
        return self.read()


@final
@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The dataset that DATA names. It is read lazily; asking for a part that it lacks raises ValueError."""

    data: str
    """DATA as given."""
    kind: Kind
    title: str
    """Name for display."""
    read: Callable[[], dict[str, Split]] = dict
    """Readers of the splits by name, in order of precedence."""
    own_split: str | None = None
    """Description of the splits for display, if they have no names."""
    small: bool | None = None
    """`small_images`, if known beforehand."""
    annotation_files: dict[str, Path] = field(default_factory=dict)
    """Splits of images with boxes: those that exist of "train", "val" and "test"."""

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Labelled images by split; a single one called "" if the data has no splits."""
        if self.kind in ("boxes", "voc", "yolo"):
            what = "it" if self.kind == "boxes" else "the output of rexnet detect convert"
            commands = "rexnet detect train and detect validate"
            raise ValueError(f"{printable(self.data)} is {KINDS[self.kind]}; {commands} take {what}")
        return self.read()

    @property
    def train(self) -> Split | None:
        """Return the training images, or all images of data without splits."""
        return self.splits.get(TRAIN_SPLIT) or self.splits.get("")

    @property
    def val(self) -> Split | None:
        """Return the validation images: the first of VAL_SPLITS that exists."""
        return next((self.splits[name] for name in VAL_SPLITS if name in self.splits), None)

    @cached_property
    def small_images(self) -> bool:
        """Return whether the longer sides of up to 32 images, read from their headers, have a median of at most 64
        pixels."""
        if self.small is not None:
            return self.small
        longer_px = []
        for size in self._sizes():
            try:
                longer_px.append(max(size()))
            except BadImageError:
                continue
        return bool(longer_px) and float(np.median(longer_px)) <= SMALL_IMAGE_PX

    def for_training(
        self,
        *,
        val_fraction: float | None = None,
        seed: int = 0,
        shots: int | None = None,
        missing_class: Literal["error", "skip"] = "error",
    ) -> ImageSets:
        """Return training and validation images. Data without splits is divided: the validation split is
        `val_fraction` (default 0.2) of each class, drawn with `seed`, and at least one image of each; a class with a
        single image keeps it for training. `shots` limits the training images to this number per class, drawn with
        `seed`; the validation split stays the same. Raise ValueError for a class without training images, for fewer
        than two classes, for an empty validation split and, in folders, for a class without validation images, unless
        `missing_class` is "skip".
        """
        if val_fraction is not None and not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction is {val_fraction}; allowed: above 0 and below 1")
        train, val = self.train, self.val
        if train is None:
            raise ValueError(
                f"{printable(self.data)} has {self._split_names} but no train/, so there are no images to train on"
            )
        sets = [split.images for split in (train, val) if split]
        if len({images.classes for images in sets}) > 1:
            classes = sorted({name for images in sets for name in images.classes})
            sets = [images.with_classes(classes) for images in sets]
        if self.kind != "named":
            self._admit(sets, validate_all=self.kind == "folder" and missing_class == "error")
        random_split = None
        if val is None:
            fraction = val_fraction or DEFAULT_VAL_FRACTION
            random_split = RandomSplit(val_fraction=fraction, seed=seed, fingerprint=fingerprint(train.images))
            sets = [train.images.subset(part) for part in random_split.draw(train.images)]
        elif val_fraction is not None:
            text = "val_fraction %g has no effect: %s comes with its own split"
            logger.warning(text, val_fraction, printable(self.data))
        split = random_split.description if random_split else self._split_names
        if shots is not None:
            sets[0] = draw_shots(sets[0], shots, seed)
            few = "" if len(sets[0]) == shots * len(sets[0].classes) else "at most "
            split = f"{split}; {few}{shots} of each class to train on, seed {seed}"
        return ImageSets(train=sets[0], val=sets[1], title=self.title, split=split, random_split=random_split)

    def for_measuring(
        self, classes: Sequence[str], *, split: Literal["train", "val"] = "val", random_split: RandomSplit | None = None
    ) -> ImageSet:
        """Return images to evaluate a model with `classes` on; targets index `classes`, matched by name; WordNet ids
        match ImageNet's names. Data without splits is divided again by `random_split` if that split was drawn from it,
        and is used whole otherwise; both are logged. Classes without images are allowed here, see
        `ImageSet.missing_classes`. Raise ValueError for a class that the model does not know, and if there are no
        images.
        """
        images = self._to_measure(split, random_split)
        if not len(images):
            raise ValueError(f"{printable(self.data)} has no images in its class folders")
        if empty := images.missing_classes:
            logger.info("%s has no images of %s", printable(self.data), some_names(empty))
            images = images.with_classes([name for name in images.classes if name not in set(empty)])
        images = images.rename_classes(name_wordnet_ids(images.classes, classes))
        known = set(map(normal_name, classes))
        if unknown := [name for name in images.classes if normal_name(name) not in known]:
            raise ValueError(
                f"{printable(self.data)} has classes that the model does not know: {some_names(sorted(unknown))}"
            )
        return images.with_classes(classes)

    def for_detection(self, *, bad_image: BadImagePolicy = "error") -> CocoSets:
        """Return training and validation images with boxes. Raise ValueError if there are none and, unless
        `bad_image` is "skip", if some are missing or more than a tenth cannot be used."""
        self.require_boxes()
        sets = load_coco_sets(self.data)
        require_objects(sets)
        for images in (sets.train, sets.val) if bad_image == "error" else ():
            refuse_lost_images(images)
        return sets

    def require_boxes(self) -> None:
        """Raise ValueError for data without annotations in COCO's layout."""
        if not self.annotation_files:
            raise ValueError(
                f"{printable(self.data)} is {KINDS[self.kind]}, without annotations in COCO's layout, "
                "annotations/instances_train.json and instances_val.json; rexnet detect convert creates them from "
                "Pascal VOC and YOLO, and rexnet train takes images without boxes"
            )

    def boxes_to_measure(
        self, split: Literal["train", "val", "test"], classes: Sequence[str], *, bad_image: BadImagePolicy = "error"
    ) -> CocoImages:
        """Return the images with boxes of one split, with labels that index `classes`. Raise ValueError as
        `for_detection` does."""
        if split not in self.annotation_files:
            have = ", ".join(self.annotation_files) or "no annotation file in COCO's layout"
            raise ValueError(f"--split is {split}, but {printable(self.data)} has {have}")
        images = load_coco_images(self.annotation_files[split]).with_classes(classes)
        if bad_image == "error":
            refuse_lost_images(images)
        return images

    @property
    def _split_names(self) -> str:
        return self.own_split or ", ".join(f"{split.name}/" for split in (self.train, self.val) if split)

    def _sizes(self) -> list[Callable[[], tuple[int, int]]]:
        """Return the function that reads the sizes of a few evenly spaced images."""
        if self.kind in ("folder", "boxes", "voc", "yolo"):
            files = image_files(self.data)
            files = files[:: max(1, len(files) // _HEADERS_TO_PEEK_AT)][:_HEADERS_TO_PEEK_AT]
            return [partial(stored_size_px, file) for file in files]
        split = self.train or self.val
        assert split is not None, "a dataset has a split"
        positions = np.linspace(0, len(split.images) - 1, _HEADERS_TO_PEEK_AT).astype(int).tolist()
        images = split.images
        return [lambda index=index: images.load(index).size for index in positions]

    def _admit(self, sets: Sequence[ImageSet], *, validate_all: bool) -> None:
        """Raise ValueError if the classes of `train` and `val` do not allow training; with `validate_all`, also if a
        class has no validation images."""
        found = [split for split in (self.train, self.val) if split]
        places = [split.where for split in found]
        # First report the folders without images, then those that only the other split has.
        missing = [(here, split.images.missing_classes, "") for here, split in enumerate(found)]
        if len(sets) == 2:
            missing += [(here, sets[here].missing_classes, f", which {places[1 - here]} has") for here in (0, 1)]
        for here, names, which in missing:
            if not names or (here == 1 and not validate_all and len(sets[1])):
                continue
            one = plural(len(names), "class")
            raise ValueError(
                f"{places[here]} has no images of the {one} {some_names(names)}{which}; put images there, or remove "
                f"the {one}{'; --missing-class skip trains without validating it' if here == 1 else ''}"
            )
        if len(sets) == 2 and (names := sets[1].missing_classes):
            logger.warning("%d classes are trained but never validated: %s", len(names), some_names(names))
        train = sets[0]
        if len(train.classes) < 2:
            hint = advise_on_nesting(train, places[0]) if self.kind == "folder" else ""
            raise ValueError(f"{places[0]} has one class, {some_names(train.classes)}: two or more are needed{hint}")
        if self.kind == "folder":
            for images, place in zip(sets, places, strict=True):
                _warn_of_nested_folders(images, place)
        if len(sets) == 1:
            counts = np.bincount(train.targets)
            if counts.max() < 2:
                raise ValueError(f"no class in {places[0]} has two images, one of which is needed for validation")
            if single := [train.classes[index] for index in np.flatnonzero(counts == 1)]:
                text = "classes with a single image, which is used for training and never validated: %s"
                logger.warning(text, some_names(single))

    def _to_measure(self, split: Literal["train", "val"], random_split: RandomSplit | None) -> ImageSet:
        chosen = self.train if split == "train" else self.val
        if self.val is None and self.train is not None:
            images = self.train.images
            if random_split is not None and random_split.fits(images):
                part = dict(zip(("train", "val"), random_split.draw(images), strict=True))[split]
                text = "the split of the training run is used again: %d of %d images are its %s split (%s)"
                logger.info(
                    text,
                    len(part),
                    len(images),
                    "training" if split == "train" else "validation",
                    random_split.description,
                )
                return images.subset(part)
            if self.kind == "folder" and self.train.name and split == "val":
                others = some_names(VAL_SPLITS)
                raise ValueError(
                    f"{printable(self.data)} has train/ but none of {others}; give the folder to evaluate on"
                )
            if not (self.kind == "folder" and self.train.name):
                text = "%s has no splits: all of it is evaluated, which may include training images"
                logger.warning(text, printable(self.data))
            return images
        if chosen is None:
            raise ValueError(f"{printable(self.data)} has no images to train on, only {self._split_names}")
        return chosen.images


def _warn_of_nested_folders(images: ImageSet, place: str) -> None:
    nested = nested_folders(images, place)
    if len(nested) == len(images.classes) and (merged := [name for name, names in nested.items() if len(names) > 1]):
        text = "%s: no class folder contains images itself; the sub-folders of each count as one class: %s"
        logger.warning(text, place, some_names(f"{name} ({some_names(nested[name])})" for name in merged))
