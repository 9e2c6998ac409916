"""Draws and weights that look at how many images each class has."""

import logging

import numpy as np

from rexnet.data.image_set import ImageSet
from rexnet.text import printable

logger = logging.getLogger(__name__)

_SHOTS = 1
"""Keeps the draw of shots apart from that of a split, which has the same seed."""


def class_weights(targets: np.ndarray, num_classes: int) -> np.ndarray:
    """float64 (K,), N / (K n) for a class with n of the N images: over the images their mean is 1.

    The K that counts is that of the classes with images; the others weigh 0. Source: scikit-learn's "balanced".
    """
    counts = np.bincount(targets, minlength=num_classes)
    filled = counts > 0
    weights = np.zeros(num_classes)
    weights[filled] = len(targets) / (filled.sum() * counts[filled])
    return weights


def balanced_draws(targets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many draws as there are images, int64 (N,), in random order: each class equally often, give or take one, and
    each image of a class as often as another one, give or take one.

    A draw is the position of the image, plus N for each time that it was drawn before, so no two draws are the same.
    """
    classes, counts = np.unique(targets, return_counts=True)
    members = np.split(np.argsort(targets, kind="stable"), np.cumsum(counts)[:-1])
    shares = np.full(len(classes), len(targets) // len(classes))
    shares[random.permutation(len(classes))[: len(targets) % len(classes)]] += 1
    draws = [
        np.resize(random.permutation(positions), share) + len(targets) * (np.arange(share) // len(positions))
        for positions, share in zip(members, shares, strict=True)
    ]
    return random.permutation(np.concatenate(draws))


def draw_shots(images: ImageSet, shots: int, seed: int) -> ImageSet:
    """`shots` images of each class, in the order they had. Of one seed, fewer shots are among more.

    A class with fewer images keeps what it has, and a warning names it.
    """
    order = np.random.default_rng([_SHOTS, seed]).permutation(len(images))
    order = order[np.argsort(images.targets[order], kind="stable")]
    counts = np.bincount(images.targets, minlength=len(images.classes))
    place_in_class = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
    short = [f"{printable(images.classes[k])} ({counts[k]})" for k in np.flatnonzero(counts < shots)]
    if short:
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        logger.warning("classes with fewer than %d images keep all they have: %s%s", shots, ", ".join(short[:5]), more)
    return images.subset(np.sort(order[place_in_class < shots]))
