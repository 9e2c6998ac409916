"""Table of all metrics: keys in files, labels, names on the Hugging Face hub, units, and whether higher is better."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

TaskName = Literal["classification", "detection"]
Goal = Literal["top1", "macro_recall", "macro_f1"]
"""Metrics of a classifier that can select best.pt."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A row of the table."""

    name: str
    """Key in JSON; in metrics.jsonl with the prefix train_ or val_."""
    label: str
    """Label in logs, tables and plots."""
    full_name: str
    """Long name, as in a model card."""
    tasks: tuple[TaskName, ...]
    unit: Literal["%", ""] = "%"
    higher_is_better: bool = True
    hub_name: str | None = None
    """Metric type in the hub's model index; None if it has no such type."""
    least_classes: int = 1
    """Minimum number of classes for which the metric can be below 100 %: with five classes, top-5 is always right."""

    @property
    def key(self) -> str:
        """Key of its value on the validation split in metrics.jsonl."""
        return f"val_{self.name}"

    @property
    def title(self) -> str:
        """Label with its unit, as the title of a plot."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def text(self, value: float) -> str:
        return f"{value:.2f} {self.unit}".rstrip()

    def is_better(self, value: float, other: float) -> bool:
        """Return True if `value` is better than `other`; False for nan."""
        return value > other if self.higher_is_better else value < other


def _classification(name: str, label: str, full_name: str, hub_name: str, **more: Any) -> Metric:
    return Metric(name=name, label=label, full_name=full_name, tasks=("classification",), hub_name=hub_name, **more)


def _detection(kind: str, objects: str) -> list[Metric]:
    """COCO's average precision and recall of boxes or masks."""
    precision = {
        "ap": ("AP", "AP, IoU 0.50 to 0.95"),
        "ap50": ("AP50", "AP, IoU 0.50"),
        "ap75": ("AP75", "AP, IoU 0.75"),
        "ap_small": ("AP small", "AP of small objects"),
        "ap_medium": ("AP medium", "AP of medium objects"),
        "ap_large": ("AP large", "AP of large objects"),
    }
    recall = {
        "ar1": ("AR1", "AR, 1 detection per image"),
        "ar10": ("AR10", "AR, 10 detections per image"),
        "ar100": ("AR100", "AR, 100 detections per image"),
        "ar_small": ("AR small", "AR of small objects"),
        "ar_medium": ("AR medium", "AR of medium objects"),
        "ar_large": ("AR large", "AR of large objects"),
    }
    return [
        Metric(
            name=f"{kind}_{key}",
            label=f"{kind} {label}",
            full_name=f"{full_name}, {objects}",
            tasks=("detection",),
            hub_name="mAP" if key in precision else None,
        )
        for key, (label, full_name) in {**precision, **recall}.items()
    ]


_ROWS = (
    _classification("top1", "top-1", "top-1 accuracy", "accuracy"),
    _classification("top5", "top-5", "top-5 accuracy", "accuracy", least_classes=6),
    _classification("macro_recall", "macro recall", "macro recall", "recall"),
    _classification("macro_f1", "macro F1", "macro F1", "f1"),
    *_detection("box", "boxes"),
    *_detection("mask", "masks"),
    Metric(
        name="loss",
        label="loss",
        full_name="loss",
        tasks=("classification", "detection"),
        unit="",
        higher_is_better=False,
    ),
)
METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}


def metrics_of(task: TaskName, *, num_classes: int | None = None) -> list[Metric]:
    """Return the metrics of `task` in their order in tables; with `num_classes`, only metrics that can be below 100
    %."""
    least = float("inf") if num_classes is None else num_classes
    return [metric for metric in METRICS.values() if task in metric.tasks and metric.least_classes <= least]


def curve_panels(keys: Collection[str], *, goals: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """Return the plots over the epochs, title -> {key in metrics.jsonl: label of its line}, for rows with these `keys`.
    `goals`:

    metrics that selected best epochs, which always get a plot.
    """
    plotted = {
        "loss": {"train_loss": "training", "val_loss": "validation"},
        METRICS["top1"].title: {"train_top1": "training", "val_top1": "validation"},
        "AP, %": {METRICS[name].key: METRICS[name].label for name in ("box_ap", "mask_ap", "box_ap50")},
        "learning rate": {"lr": ""},
    }
    shown = {key for lines in plotted.values() for key in lines}
    for name in goals:
        if METRICS[name].key not in shown:
            plotted[METRICS[name].title] = {METRICS[name].key: "validation"}
    panels = {title: {key: label for key, label in lines.items() if key in keys} for title, lines in plotted.items()}
    return {title: lines for title, lines in panels.items() if lines}
