"""The images that an int8 network is calibrated on, and those that it is compared on with the float network."""

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
from rexnet.text import plural, printable
from rexnet.training.checkpoint import TrainedRexNet

LEAST_MEASURED = 20
"""Images; one of fewer weighs more than five points."""
_MEASURED_SHARE = 0.8
"""Of data without a split, each image of which serves one end only."""


def labelled_sides(data: str, model: TrainedRexNet) -> tuple[ImageSet, ImageSet]:
    """Images to calibrate on, of the training side of `data`, and labelled ones to measure on, which were held back.

    Data without a split is divided: a fifth of each class to calibrate on. Errors as of `Dataset.for_measuring`, and
    ValueError for fewer than LEAST_MEASURED images to measure on.
    """
    try:
        dataset = open_dataset(data)
        held_back = dataset.for_measuring(model.classes, split="val", drawn=model.split)
        training = dataset.for_measuring(model.classes, split="train", drawn=model.split)
    except ValueError as error:
        if not os.path.isdir(data):
            raise
        advice = "where images have no labels, --measure agreement compares with the float network instead"
        raise ValueError(f"{error}; {advice}") from error
    if fingerprint(training) == fingerprint(held_back):
        training, held_back = _divided(held_back)
    return _checked(data, training, held_back)


def unlabelled_sides(data: str) -> tuple[ImageSet, ImageSet]:
    """Like `labelled_sides`, of any images below a folder; their targets say nothing."""
    return _checked(data, *_divided(open_images(data)))


def _divided(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    calibration, measured = stratified_split(images.targets, _MEASURED_SHARE, seed=0)
    return images.subset(calibration), images.subset(measured)


def _checked(data: str, calibration: ImageSet, measured: ImageSet) -> tuple[ImageSet, ImageSet]:
    count = len(measured)
    if count < LEAST_MEASURED:
        raise ValueError(
            f"{printable(data)} has {count} {plural(count, 'image')} to compare both networks on beside "
            f"{len(calibration)} to calibrate on; what int8 costs cannot be told from fewer than {LEAST_MEASURED}"
        )
    return calibration, measured


def drawn(images: ImageSet, count: int) -> ImageSet:
    """`count` of the images, drawn at random but always the same, or all where there are no more."""
    order = np.random.default_rng(0).permutation(len(images))
    return images.subset(np.sort(order[:count]))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The same images named by the float and by the int8 network."""

    images: int
    right: int
    """Of the float network."""
    lost: int
    """Images that the float network names rightly and the int8 network does not."""
    gained: int
    """The other way round."""

    @classmethod
    def of(cls, float_named: Tensor, int8_named: Tensor, targets: Tensor) -> "Comparison":
        """From class indices (N,)."""
        before, after = float_named == targets, int8_named == targets
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
        """Points of top-1; below 0 where int8 is better."""
        return 100.0 * (self.lost - self.gained) / self.images

    @property
    def margin(self) -> float:
        """Half the 95 % confidence interval of `drop`, in points: paired images, normal approximation.

        Without a difference it is what no difference among so many still allows, 3 / N (Hanley and Lippman-Hand 1983).
        """
        changed = self.lost + self.gained
        if not changed:
            return 100.0 * 3 / self.images
        return 100.0 * 1.96 * sqrt(changed - (self.lost - self.gained) ** 2 / self.images) / self.images


def predicted_classes(networks: Sequence[Network], batches: Iterable[Batch]) -> tuple[list[Tensor], Tensor]:
    """Return the class indices (N,) that each network finds most probable, and the right ones; images are read once.

    ValueError for a network whose output is not finite.
    """
    predicted: list[list[Tensor]] = [[] for _ in networks]
    targets: list[Tensor] = []
    for batch in batches:
        targets.append(batch.targets)
        for network, found in zip(networks, predicted, strict=True):
            logits = network(batch.images)
            if not logits.isfinite().all():
                raise ValueError("what a network puts out for these images is not finite (nan or inf)")
            found.append(logits.argmax(dim=1))
    return [torch.cat(found) for found in predicted], torch.cat(targets)
