"""Interpretation of a run's curves: whether it under- or overfits, and what to try next."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from rexnet.text import quantity
from rexnet.training.metrics import Metric

LEAST_EPOCHS = 10
"""Minimum number of epochs for a conclusion."""
_CHANGE = 1.0
"""Minimum change, in points, that counts as rising or falling."""
_GAP = 5.0
"""Minimum lead, in points, of training over validation that counts as overfitting."""
_FITTED = 95.0
"""Minimum training top-1, in percent, at which the training images count as learned."""

Row = Mapping[str, Any]


def read_curves(rows: Sequence[Row], metric: Metric) -> str:
    """Return what the curves of a run show, and what to try next, in one sentence.

    `metric` selects the best epoch. Training metrics are means over an epoch, on augmented images: training below
    validation is no cause for concern, and the true lead of training over validation is at least the measured one.
    """
    if len(rows) < LEAST_EPOCHS:
        epochs = quantity(len(rows), "epoch")
        return f"It takes {LEAST_EPOCHS} epochs or more to show under- or overfitting; the run has {epochs}."
    window = max(2, len(rows) // 5)
    means = [_mean(rows[end - window : end], metric.key) for end in range(window, len(rows) + 1)]
    last, earlier = means[-1], means[-1 - window]
    smallest = max(_CHANGE, _standard_error(last, rows[-1].get("val_images")))
    peak = max(range(len(means)), key=means.__getitem__)
    learns = _mean(rows[-window:], "train_loss") < _mean(rows[peak : peak + window], "train_loss")
    if means[peak] - last > smallest and learns:
        fall = f"{metric.label} has fallen by {means[peak] - last:.1f} points since about epoch {peak + window}"
        next_step = "try stronger augmentation or more images, or fewer epochs"
        return f"It overfits: {fall}, while the training loss kept falling; {next_step}."
    if last - earlier > smallest:
        rise = f"{metric.label} still rose by {last - earlier:.1f} points in the last fifth of the epochs"
        return f"It has not learned all it can: {rise}; try more --epochs."
    return f"{metric.label[0].upper()}{metric.label[1:]} has stopped rising: {_compare(rows[-window:])}."


def _compare(rows: Sequence[Row]) -> str:
    """Return the clauses about the difference between training and validation at the end."""
    if "train_top1" not in rows[-1] or "val_top1" not in rows[-1]:
        return "more epochs alone will not help, and the curves do not show whether the network under- or overfits"
    train, val, images = _mean(rows, "train_top1"), _mean(rows, "val_top1"), rows[-1].get("val_images")
    if (gap := train - val) > _GAP:
        lead = f"training top-1, though on augmented images, is {gap:.1f} points above validation"
        if gap < 2 * _standard_error(val, images):
            few = f"with {images:.0f} validation images that may be chance"
            return f"{lead}, but {few}; more of them would show whether it overfits"
        return f"it overfits, as {lead}; try stronger augmentation or more images"
    if train < _FITTED:
        seen = f"training top-1, on augmented images, is only {train:.1f} %"
        return f"it underfits, as {seen}; try a larger network or --image-size, or weaker augmentation"
    return f"the training images are learned ({train:.1f} %), and validation keeps up; nothing here calls for a change"


def _mean(rows: Sequence[Row], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def _standard_error(percent: float, images: float | None) -> float:
    """Return the standard error, in points, of a percentage over `images` images; 0 if their number is unknown."""
    fraction = min(max(percent / 100, 0.0), 1.0)
    return 100 * sqrt(fraction * (1 - fraction) / images) if images else 0.0
