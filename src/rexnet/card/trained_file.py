"""A trained model to describe: its checkpoint, its run folder, and its metrics. No file is changed."""

from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any, NamedTuple

from rexnet.errors import WeightsError
from rexnet.models.config import RexNetConfig
from rexnet.references import resolve
from rexnet.training import checkpoint
from rexnet.training.metrics import Metric, metrics_of
from rexnet.training.run_folder import RunFolder
from rexnet.training.run_record import RunRecord, record_of

# Buffers updated in training, but not learned.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_Z95 = 1.959964


class Measurement(NamedTuple):
    """The value of a metric on the validation split."""

    metric: Metric
    percent: float
    interval: tuple[float, float] | None
    """95 % confidence interval in percent, over random samples of the same size; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class TrainedFile:
    """A checkpoint of a classifier or a detector."""

    path: Path
    content: dict[str, Any]
    run: RunRecord | None
    """Run folder of the file; None if it is not in one."""

    @property
    def is_detector(self) -> bool:
        return self.content.get("task") == checkpoint.DETECTION

    @property
    def classes(self) -> list[str]:
        return self.content["classes"]

    @property
    def config(self) -> RexNetConfig | None:
        """Network of a classifier; None for a detector."""
        return None if self.is_detector else RexNetConfig.from_dict(self.content["model"])

    @property
    def detector(self) -> dict[str, Any]:
        """Config of a detector; empty for a classifier."""
        return self.content.get("detector", {})

    @property
    def network(self) -> str:
        """Name of the network, or of a detector's backbone."""
        return self._network if isinstance(self._network, str) else self._network["name"]

    @property
    def is_rexnet(self) -> bool:
        """True for a ReXNet of this package, False for a backbone of timm below a detector."""
        return not isinstance(self._network, str)

    @property
    def _network(self) -> dict[str, Any] | str:
        return self.detector["backbone"] if self.is_detector else self.content["model"]

    @property
    def parameters(self) -> int:
        state = self.content["state_dict"]
        return sum(values.numel() for name, values in state.items() if not name.endswith(_STATISTICS))

    @property
    def data(self) -> str:
        """Argument DATA of the run, as given; "" if unknown."""
        return str(self.run.config.get("data", "")) if self.run else ""

    @property
    def starting_weights(self) -> str | None:
        """Option --weights of the run."""
        return self.run.option("network", "weights") if self.run else None

    @property
    def is_best(self) -> bool:
        """True if the checkpoint is best.pt, whose epoch was chosen by its metric."""
        return self.path.name == RunFolder(self.path.parent).best.name

    @property
    def metrics(self) -> dict[str, Any]:
        """Row of metrics.jsonl for the epoch of the weights."""
        return self.content.get("metrics") or {}

    def measurements(self) -> list[Measurement]:
        """Return the metrics on the validation split of the run; none for a checkpoint written mid-epoch."""
        images = self.metrics.get("val_images")
        found = []
        task = "detection" if self.is_detector else "classification"
        for metric in metrics_of(task, num_classes=len(self.classes)):
            value = self.metrics.get(metric.key)
            if metric.hub_name is None or value is None or not isfinite(value):
                continue
            interval = wilson_interval(value, images) if metric.name in ("top1", "top5") and images else None
            found.append(Measurement(metric, value, interval))
        return found


def wilson_interval(percent: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval, in percent, of a fraction of `count` (E. B. Wilson 1927)."""
    fraction, square = percent / 100, _Z95**2 / count
    middle = (fraction + square / 2) / (1 + square)
    half = sqrt(fraction * (1 - fraction) * square + square**2 / 4) / (1 + square)
    return 100 * (middle - half), 100 * (middle + half)


def read_trained(run: str) -> TrainedFile:
    """Read a checkpoint, or the best one of a run folder, and the facts about its run. Raise ValueError for anything
    else, and for a file that cannot be used.
    """
    file = resolve(run, allowed=("run", "weights")).file
    content = checkpoint.read(file)
    if content.get("task") is None:
        checkpoint.unpack(content, source=str(file))  # raises for an inconsistent file
    elif content["task"] != checkpoint.DETECTION:
        raise WeightsError(f"{str(file)!r} is a checkpoint for {content['task']!r}; allowed: classifiers and detectors")
    return TrainedFile(path=file, content=content, run=record_of(file))
