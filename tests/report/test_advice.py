"""Made-up curves of each kind, and what follows from them."""

import pytest

from rexnet.report.advice import read_curves
from rexnet.training.metrics import METRICS


def curves(val, train=None, *, loss=None, images=10_000, key="val_top1"):
    rows = [{key: value, "val_images": images, "train_loss": 3.0 - 0.1 * epoch} for epoch, value in enumerate(val)]
    for row, value in zip(rows, train or (), strict=False):
        row["train_top1"] = value
    for row, value in zip(rows, loss or (), strict=False):
        row["train_loss"] = value
    return rows


FLAT = [20, 40, 55, 63, 67, 69, *[70.0, 70.2, 69.9, 70.1] * 4]
EPOCHS = len(FLAT)
RISING = [3.0 * epoch for epoch in range(EPOCHS)]
FALLING = [20, 40, 60, 70, 75, 76, 75, *(74 - epoch for epoch in range(EPOCHS - 7))]


@pytest.mark.parametrize(
    ("rows", "state", "next_step"),
    [
        (curves(FLAT[:9]), "the run has 9 epochs", ""),
        (curves([]), "the run has 0 epochs", ""),
        (curves([50.0]), "the run has 1 epoch", ""),
        (curves(RISING), "still rose by 12.0 points", "more --epochs"),
        (curves(FALLING), "overfits: top-1 has fallen by 13.5 points since about epoch 8", "stronger augmentation"),
        (curves(FLAT, [min(99.0, 5.0 * epoch) for epoch in range(EPOCHS)]), "it overfits, as training", "more images"),
        (
            curves(FLAT, [60.0] * EPOCHS),
            "it underfits, as training top-1, on augmented images, is only 60.0 %",
            "larger",
        ),
        (curves([*FLAT[:5], *[97.0] * 17], [98.0] * EPOCHS), "are learned (98.0 %)", "nothing here calls for"),
        (curves(FLAT), "has stopped rising", "do not show whether"),
    ],
)
def test_each_kind_of_curve_has_its_advice(rows, state, next_step):
    sentence = read_curves(rows, METRICS["top1"])
    assert state in sentence and next_step in sentence and sentence.endswith(".")


def test_a_change_within_the_noise_of_few_images_does_not_count():
    rising = [*FLAT[:-4], 71.0, 72.0, 72.0, 73.0]
    assert "still rose" in read_curves(curves(rising), METRICS["top1"])
    assert "has stopped rising" in read_curves(curves(rising, images=50), METRICS["top1"])


@pytest.mark.parametrize(("images", "overfits"), [(12, False), (50, False), (200, True)])
def test_a_lead_within_the_noise_of_few_images_is_not_overfitting(images, overfits):
    sentence = read_curves(curves(FLAT, [80.0] * EPOCHS, images=images), METRICS["top1"])
    assert "is 10.0 points above validation" in sentence and ("it overfits, as" in sentence) == overfits
    assert (f"with {images} validation images that may be chance" in sentence) != overfits


def test_a_fall_without_further_learning_is_not_overfitting():
    """As where the learning rate is too high: the training loss has risen, too."""
    rows = curves(FALLING, [30.0] * EPOCHS, loss=[2.0] * 8 + [2.5] * (EPOCHS - 8))
    assert "overfits" not in read_curves(rows, METRICS["top1"])


def test_advice_on_detectors_uses_their_metric():
    sentence = read_curves(curves(RISING, key="val_box_ap"), METRICS["box_ap"])
    assert sentence.startswith("It has not learned all it can: box AP still rose by 12.0 points")
