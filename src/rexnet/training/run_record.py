"""Records of finished, stopped and running runs. The only module that reads run folders of other versions."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rexnet.data.facts import DataFacts
from rexnet.errors import OptionError
from rexnet.files import real_path
from rexnet.references import Kind, holds_settings, resolve
from rexnet.training.metrics import METRICS, Metric, TaskName
from rexnet.training.run_folder import ENVIRONMENT, RunFolder

# These options affect where and how a run starts, not its result.
_NOT_COMPARED = frozenset({"output", "overwrite", "resume"})
_MADE = "rexnet train and rexnet detect train make run folders"
_SLOW_READING = 0.25
_SLOW_VALIDATION = 1 / 3


def percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


@dataclass(frozen=True, kw_only=True)
class TimeSpent:
    """Seconds spent in all complete epochs, without start-up and writing files."""

    waiting: float
    """Time in training spent waiting for the images of the next step."""
    computing: float
    """The rest of training or, if `validating` is None, of training and validation."""
    validating: float | None
    """Validation; None if the run did not record its number of training images."""

    @property
    def total(self) -> float:
        return self.waiting + self.computing + (self.validating or 0.0)

    @property
    def waiting_fraction(self) -> float:
        """Fraction of the training time spent waiting, 0 to 1."""
        return self.waiting / max(self.waiting + self.computing, 1e-9)

    def bottleneck(self, workers: int | None) -> str:
        """Return a sentence with the bottleneck and its remedy. `workers`: the value of the run's option."""
        waited = f"training spent {percent(self.waiting_fraction)} of its time waiting for them"
        if self.waiting_fraction >= _SLOW_READING:
            remedy = "smaller image files or more --workers" if workers else "smaller image files or --workers"
            return f"Reading images is the bottleneck: {waited}; {remedy} would help most."
        fraction = (self.validating or 0.0) / max(self.total, 1e-9)
        if fraction >= _SLOW_VALIDATION:
            took = f"it took {percent(fraction)} of the time"
            return f"Validation is the bottleneck: {took}; fewer validation images would help most."
        return f"The network's own computation is the bottleneck: images were ready when needed, {waited}."


_IN_RUNS: tuple[Kind, ...] = ("run", "weights", "config")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Content of a run folder's files, empty for files that a new run does not have yet."""

    folder: RunFolder
    label: str
    """Name of the run, unique among the runs read together."""
    config: dict[str, Any]
    """Content of config.json, of any version."""
    environment: dict[str, Any]
    data: DataFacts | None
    """Content of data.json; None before the run has read its data."""
    rows: list[dict[str, Any]]
    """Metrics, one row per epoch."""
    summary: dict[str, Any]
    """Content of summary.json, empty before the end of the run."""

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def task(self) -> TaskName:
        return "detection" if "detector" in self.config["network"] else "classification"

    @property
    def metric(self) -> Metric:
        """Metric that selected the best epoch."""
        if self.task == "classification":
            return METRICS[self.config.get("goal", "top1")]
        masks = METRICS["mask_ap"]
        return masks if any(masks.key in row for row in self.rows) else METRICS["box_ap"]

    @property
    def best(self) -> dict[str, Any] | None:
        """First row with the best value of the run's metric; None before the end of the first epoch."""
        best = None
        for row in self.rows:
            if best is None or self.metric.is_better(row[self.metric.key], best[self.metric.key]):
                best = row
        return best

    def option(self, group: str, name: str) -> Any:
        """Return an option's value; None if the run's version had no such option."""
        return self.config.get(group, {}).get(name)

    def options(self) -> dict[str, dict[str, Any]]:
        """Return option -> value for each group of the config; options outside groups, such as `data`, are in "run"."""
        groups = {name: values for name, values in self.config.items() if isinstance(values, dict)}
        alone = {name: value for name, value in self.config.items() if not isinstance(value, dict)}
        return {**groups, "run": {**alone, **groups.get("run", {})}}

    @property
    def images_per_second(self) -> float | None:
        """Return the median over the epochs, which a briefly busy machine hardly affects."""
        speeds = sorted(row["images_per_second"] for row in self.rows)
        return speeds[len(speeds) // 2] if speeds else None

    def time_spent(self) -> TimeSpent:
        total = waiting = training = 0.0
        for row in self.rows:
            total += row["seconds"]
            # A row's seconds include training and validation; its speed is that of training.
            seconds, speed = row["seconds"], row["images_per_second"]
            if self.data and speed:  # 0 if all steps of the epoch were skipped
                seconds = min(self.data.train_images / speed, seconds)
            training += seconds
            waiting += seconds * row["wait_share"]
        validating = total - training if self.data else None
        return TimeSpent(waiting=waiting, computing=training - waiting, validating=validating)


def read_records(runs: Sequence[str | os.PathLike[str]]) -> list[RunRecord]:
    """Read runs, each given by its folder or a file in it, and give them distinct labels. Raise ValueError for a folder
    without a run, or if a run is given twice.
    """
    files = [path for path in map(Path, runs) if path.is_file()]
    for file in files:
        resolve(file, allowed=_IN_RUNS)
    folders = [path.parent if path in files else path for path in map(Path, runs)]
    resolved = [real_path(folder) for folder in folders]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            raise OptionError(f"the run {str(folders[number])!r} is given twice; give each run once")
    names = [folder.name for folder in resolved]
    labels = [name if names.count(name) == 1 else str(path) for name, path in zip(names, folders, strict=True)]
    return [read_record(RunFolder(path), label=label) for path, label in zip(folders, labels, strict=True)]


def read_record(folder: RunFolder, *, label: str | None = None) -> RunRecord:
    """Read the run in `folder`. Raise ValueError if it is not a run folder."""
    if not folder.holds("config.json"):
        raise OptionError(f"{str(folder.path)!r} is not a run folder: it has no config.json; {_MADE}")
    config = folder.read("config.json")
    if not holds_settings(folder.path):
        raise OptionError(f"{str(folder.path / 'config.json')!r} has no run settings; {_MADE}")
    environment, summary = (folder.read(name) if folder.holds(name) else {} for name in (ENVIRONMENT, "summary.json"))
    data = folder.data_facts()
    if data is not None:  # a relative path is resolved from any folder
        config["data"] = data.locate(config["data"])
    return RunRecord(
        folder=folder,
        label=label or real_path(folder.path).name,
        config=config,
        environment=environment,
        data=data,
        rows=folder.rows(),
        summary=summary,
    )


def record_of(file: Path) -> RunRecord | None:
    """Read the run of the checkpoint `file`; return None outside a run folder, or if the file has another name, since
    it may not belong to the run."""
    run = RunFolder(file.parent)
    ours = file.name in (run.best.name, run.last.name, run.previous.name)
    if not ours or not holds_settings(run.path):
        return None
    return read_record(run)


def changed_between(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return option -> its value in each run, for options that differ between runs; the value is None if the run lacks
    it."""
    flat = [{name: value for group in record.options().values() for name, value in group.items()} for record in records]
    names = dict.fromkeys(name for options in flat for name in options if name not in _NOT_COMPARED)
    values = {name: [options.get(name) for options in flat] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}
