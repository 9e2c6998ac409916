"""The measured figures of a model: as a table for readers and as the hub's model index."""

import re
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING

from rexnet.card.public_words import public_name
from rexnet.card.trained_file import TrainedFile
from rexnet.data.datasets import hub_name
from rexnet.models.hub import REPOSITORY
from rexnet.training.metrics import metrics_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_Z95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number."""

    name: str
    metric: str
    """The hub's name for it."""
    percent: float
    interval: tuple[float, float] | None = None
    """Percent: where it would lie in 95 of 100 drawings of so many images; None where that is not known."""


def figures_of(trained: TrainedFile) -> list[Figure]:
    """Those that the training measured; none of a checkpoint from inside an epoch."""
    found = []
    for metric in metrics_of("detection" if trained.is_detector else "classification"):
        value = trained.metrics.get(metric.key)
        if metric.hub_name is None or value is None or not isfinite(value):
            continue
        if metric.name == "top5" and len(trained.classes) <= 5:
            continue
        images = trained.metrics.get("val_images")
        interval = wilson_interval(value, images) if metric.name in ("top1", "top5") and images else None
        found.append(Figure(name=metric.full_name, metric=metric.hub_name, percent=value, interval=interval))
    return found


def wilson_interval(percent: float, count: int) -> tuple[float, float]:
    """The 95 % interval, in percent, of a share of `count` (E. B. Wilson 1927)."""
    share, square = percent / 100, _Z95**2 / count
    middle = (share + square / 2) / (1 + square)
    half = sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return 100 * (middle - half), 100 * (middle + half)


def hub_data_set(trained: TrainedFile) -> str | None:
    """The data set's name at the hub, where the run had it from there."""
    name = hub_name(_data_option(trained))
    return name if name and re.fullmatch(rf"{REPOSITORY}|[\w-]+", name) else None


def eval_results(trained: TrainedFile, figures: list[Figure]) -> "list[EvalResult]":
    """For the hub's model index; shares from 0 to 1."""
    from huggingface_hub import EvalResult

    data = public_name(_data_option(trained)).rstrip("/")
    # The hub wants a kind of data set where it has none of that name: its own reader of such folders. It has none for
    # the boxes of a detector.
    of_folder = "unknown" if trained.is_detector else "imagefolder"
    kind = hub_data_set(trained) or (data if data == "digits" else of_folder)
    return [
        EvalResult(
            task_type="object-detection" if trained.is_detector else "image-classification",
            dataset_type=kind,
            dataset_name=data or "unknown",
            dataset_split="validation",
            metric_type=figure.metric,
            metric_name=figure.name,
            metric_value=round(figure.percent / 100, 6),
        )
        for figure in figures
    ]


def _data_option(trained: TrainedFile) -> str:
    return str(trained.training.config.get("data", "")) if trained.training else ""
