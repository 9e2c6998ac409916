"""Images to calibrate an int8 network, and images to compare it with the float network."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from rexnet.data.datasets import open_dataset, open_images
from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import Batch
from rexnet.data.splits import fingerprint, stratified_split
from rexnet.engines.backends import Network
from rexnet.text import printable, quantity
from rexnet.training.checkpoint import TrainedRexNet

LEAST_MEASURED = 20
"""Minimum number of images to compare on; with fewer, one image is worth more than five percentage points."""
_MEASURED_FRACTION = 0.8
"""Fraction of data without splits that is used to compare; the rest is used to calibrate."""


def labelled_splits(data: str, model: TrainedRexNet) -> tuple[ImageSet, ImageSet]:
    """Return calibration images from the training split of `data`, and labelled images of its validation split.

    Data without splits is divided: a fifth of each class is used to calibrate. Raise the errors of
    `Dataset.for_measuring`, and ValueError for fewer than LEAST_MEASURED images to measure on.
    """
    try:
        dataset = open_dataset(data)
        validation = dataset.for_measuring(model.classes, split="val", random_split=model.split)
        training = dataset.for_measuring(model.classes, split="train", random_split=model.split)
    except ValueError as error:
        if not os.path.isdir(data):
            raise
        advice = "for images without labels, --measure agreement compares with the float network instead"
        raise ValueError(f"{error}; {advice}") from error
    if fingerprint(training) == fingerprint(validation):
        training, validation = _divided(validation)
    return _checked(data, training, validation)


def unlabelled_splits(data: str) -> tuple[ImageSet, ImageSet]:
    """Return the same as `labelled_splits` for any images in a folder and its subfolders, with meaningless targets."""
    return _checked(data, *_divided(open_images(data)))


def _divided(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    calibration, measured = stratified_split(images.targets, _MEASURED_FRACTION, seed=0)
    return images.subset(calibration), images.subset(measured)


def _checked(data: str, calibration: ImageSet, measured: ImageSet) -> tuple[ImageSet, ImageSet]:
    count = len(measured)
    if count < LEAST_MEASURED:
        raise ValueError(
            f"{printable(data)} has {quantity(count, 'image')} to compare both networks on, besides "
            f"{len(calibration)} to calibrate on; measuring int8 accuracy takes at least {LEAST_MEASURED}"
        )
    return calibration, measured


def draw_images(images: ImageSet, count: int) -> ImageSet:
    """Return a fixed random sample of `count` images, or all if there are no more."""
    order = np.random.default_rng(0).permutation(len(images))
    return images.subset(np.sort(order[:count]))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Counts that compare the predictions of the float and the int8 network for the same images."""

    images: int
    right: int
    """Images that the float network predicts correctly."""
    lost: int
    """Images that only the float network predicts correctly."""
    gained: int
    """Images that only the int8 network predicts correctly."""

    @classmethod
    def of(cls, float_predicted: Tensor, int8_predicted: Tensor, targets: Tensor) -> "Comparison":
        """Return the comparison from class indices (N,)."""
        before, after = float_predicted == targets, int8_predicted == targets
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        return cls(images=len(targets), right=int(before.sum()), lost=lost, gained=gained)

    @property
    def float_percent(self) -> float:
        return 100.0 * self.right / self.images

    @property
    def int8_percent(self) -> float:
        return 100.0 * (self.right - self.lost + self.gained) / self.images

    @property
    def drop(self) -> float:
        """Return the drop of top-1 in percentage points; below 0 if int8 is better."""
        return 100.0 * (self.lost - self.gained) / self.images

    @property
    def margin(self) -> float:
        """Return half the 95 % confidence interval of `drop`, in percentage points: paired images, normal
        approximation.

        If no prediction differs, use the rule of three, 3 / N (Hanley and Lippman-Hand 1983).
        """
        changed = self.lost + self.gained
        if not changed:
            return 100.0 * 3 / self.images
        return 100.0 * 1.96 * sqrt(changed - (self.lost - self.gained) ** 2 / self.images) / self.images


def predicted_classes(networks: Sequence[Network], batches: Iterable[Batch]) -> tuple[list[Tensor], Tensor]:
    """Return the class indices (N,) predicted by each network, and the true ones; each image is read once.

    Raise ValueError for a network whose output is not finite.
    """
    predicted: list[list[Tensor]] = [[] for _ in networks]
    targets: list[Tensor] = []
    for batch in batches:
        targets.append(batch.targets)
        for network, found in zip(networks, predicted, strict=True):
            logits = network(batch.images)
            if not logits.isfinite().all():
                raise ValueError("a network's output for these images is not finite (nan or inf)")
            found.append(logits.argmax(dim=1))
    return [torch.cat(found) for found in predicted], torch.cat(targets)
