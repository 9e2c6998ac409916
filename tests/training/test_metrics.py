import math

import pytest

from rexnet.training.metrics import METRICS, curve_panels, metrics_of


def test_each_task_has_its_metrics():
    assert [row.name for row in metrics_of("classification")] == ["top1", "top5", "macro_recall", "macro_f1", "loss"]
    names = [row.name for row in metrics_of("detection")]
    assert names[0] == "box_ap" and {"mask_ap50", "box_ar_large", "loss"} < set(names) and len(names) == 25


@pytest.mark.parametrize(("num_classes", "top5"), [(2, False), (5, False), (6, True)])
def test_top5_is_a_metric_only_for_more_than_five_classes(num_classes, top5):
    assert ("top5" in [row.name for row in metrics_of("classification", num_classes=num_classes)]) is top5


def test_better_follows_the_direction():
    assert METRICS["top1"].is_better(2.0, 1.0) and not METRICS["top1"].is_better(1.0, 1.0)
    assert METRICS["loss"].is_better(1.0, 2.0) and not METRICS["loss"].is_better(math.nan, 2.0)
    assert METRICS["mask_ap"].text(41.256) == "41.26 %" and METRICS["loss"].text(0.5) == "0.50"


def test_panels_show_what_the_rows_have():
    assert curve_panels(()) == {}
    classifier = curve_panels(
        {"train_loss", "val_loss", "train_top1", "val_top1", "val_macro_f1", "lr"}, goals=["macro_f1"]
    )
    assert list(classifier) == ["loss", "top-1, %", "learning rate", "macro F1, %"]
    detector = curve_panels({"train_loss", "val_box_ap", "val_box_ap50", "lr"}, goals=["box_ap"])
    assert detector["AP, %"] == {"val_box_ap": "box AP", "val_box_ap50": "box AP50"} and "top-1, %" not in detector
