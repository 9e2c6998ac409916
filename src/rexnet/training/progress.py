"""Progress of a run: a bar in a terminal, otherwise a log line per minute, both with the remaining time."""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rexnet.text import duration_text, time_left_text

Item = TypeVar("Item")
logger = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""Seconds between log lines without a terminal."""
_LEAST_BAR_WIDTH = 8
_HOURS = 2
_MEASURED_STEPS, _MEASURED_SECONDS = 2, 10.0


def speed_text(images_per_second: float) -> str:
    """Return the speed as text, with decimals if slow: detectors on a CPU may need seconds per image."""
    digits = 0 if images_per_second >= 10 else 1 if images_per_second >= 1 else 2
    return f"{images_per_second:.{digits}f} images/s"


def smaller_size(size_px: int) -> int | None:
    """Return an image size, a multiple of 32, with less than half the pixels; None if below 64."""
    smaller = int(size_px * 0.7) // 32 * 32
    return smaller if smaller >= 64 else None


def hours_warning(seconds: float, *, epoch_seconds: float, options: Sequence[str]) -> str | None:
    """Return a warning that a run takes hours, with the options that shorten it; None for a shorter run."""
    if seconds < _HOURS * 3600:
        return None
    minutes = max(30, 10 * math.ceil(2 * epoch_seconds / 600))
    timed = [f"--max-minutes {minutes}"] if 120 * minutes < seconds else []
    shorter = " or ".join([*timed, *options])
    return f"this run will take about {duration_text(seconds)} on this CPU" + (
        f"; shorter: {shorter}" if shorter else ""
    )


class EpochProgress:
    """Timer of one pass over batches that shows its progress if `visible`: a bar in a terminal, else a log line every
    LOG_SECONDS, with averages so far, time left, images/s and the fraction of time spent waiting.

    Use it as a context manager. `later_steps` of the same kind and `later_seconds` of other work follow in the run;
    None if this pass is not part of a run.
    """

    def __init__(
        self,
        label: str,
        steps: int,
        *,
        visible: bool = True,
        later_steps: int | None = None,
        later_seconds: float = 0.0,
    ):
        console = Console(stderr=True)
        self._label, self._steps, self._done, self._done_before = label, steps, 0, 0
        self._later_steps, self._later_seconds = later_steps, later_seconds
        # FORCE_COLOR makes a pipe a terminal for rich, and TERM=dumb is one that cannot move its cursor.
        can_draw = console.is_interactive and console.file.isatty()
        self._logs = visible and not can_draw
        fixed = len(label) + len(f"{steps}/{steps}") + len("-:--:--") + 4
        self._width = console.width - fixed - _LEAST_BAR_WIDTH
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not (visible and can_draw),
            expand=True,
        )
        self._task = self._bar.add_task(label, total=steps, figures="")
        self._started = self._began = self._logged = time.perf_counter()
        self.images = 0
        self.waited_seconds = 0.0
        self._sums: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._started = self._began = self._logged = time.perf_counter()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def state(self) -> dict[str, Any]:
        """Return the values from which `restore` continues this pass, with the same averages, in a later process."""
        return {"images": self.images, "waited": self.waited_seconds, "seconds": self.seconds, "sums": self.sums}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Continue from `state` after `step` steps; call it within the context."""
        self.images, self.waited_seconds, self._sums = state["images"], state["waited"], dict(state["sums"])
        self._started -= state["seconds"]
        self._done = self._done_before = step
        self._bar.update(self._task, completed=step)

    def watch(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches and measure the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.waited_seconds += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def update(self, images: int, values: dict[str, float]) -> None:
        """Count a step of `images` images; `values` are means over them."""
        self.images += images
        self._done += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * images
        if not self._bar.disable:
            self._bar.update(self._task, advance=1, figures=self._fitting_text())
        elif self._logs and (now := time.perf_counter()) - self._logged >= LOG_SECONDS:
            self._logged = now
            logger.info("%s, step %d/%d: %s", self._label, self._done, self._steps, "  ".join(self._texts()))

    def _fitting_text(self) -> str:
        """Return the values that fit next to the bar, the most important first and always the loss."""
        first, *others = self._texts()
        for other in others:
            if len(first) + 2 + len(other) <= self._width:
                first += f"  {other}"
        return first

    def _texts(self) -> list[str]:
        means = [f"{name} {value:.4g}" for name, value in self.means().items()]
        left = [] if self._later_steps is None else [f"run: {time_left_text(self.run_seconds_left)}"]
        speed = [speed_text(self.images_per_second), f"waiting for data {self.wait_share:.0%}"]
        return [*means[:1], *left, *means[1:], *speed]

    @property
    def is_measured(self) -> bool:
        """Return True once this process has run enough steps for an estimate."""
        enough = self._done - self._done_before >= _MEASURED_STEPS
        return enough and time.perf_counter() - self._began >= _MEASURED_SECONDS

    @property
    def step_seconds(self) -> float:
        """Mean seconds per step in this process."""
        return (time.perf_counter() - self._began) / max(self._done - self._done_before, 1)

    @property
    def run_seconds_left(self) -> float:
        """Seconds to the end of the run at the speed so far."""
        return self.step_seconds * (self._steps - self._done + (self._later_steps or 0)) + self._later_seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    @property
    def wait_share(self) -> float:
        """Fraction of the time so far spent waiting for batches."""
        return self.waited_seconds / max(self.seconds, 1e-9)

    @property
    def sums(self) -> dict[str, float]:
        """Sum of each value over the images."""
        return dict(self._sums)

    def means(self) -> dict[str, float]:
        """Mean of each value over the images."""
        return {name: total / max(self.images, 1) for name, total in self._sums.items()}


def log_epoch(
    row: dict[str, Any], best: dict[str, Any], *, epochs: int, goal: str, logged: tuple[str, ...] | None
) -> None:
    """Log the metrics of an epoch, on the validation split only those in `logged`, if given."""
    names = [name for name in row if name.startswith(("train_", "val_"))]
    if logged is not None:
        names = [name for name in names if name == "train_loss" or name.removeprefix("val_") in logged]
    metrics = "  ".join(f"{name} {row[name]:.4g}" for name in names)
    speed = f"{speed_text(row['images_per_second'])}, {row['wait_share']:.0%} waiting for data"
    if row["epoch"] < epochs:
        speed += f"; {time_left_text((epochs - row['epoch']) * row['seconds'])}"
    key = f"val_{goal}"
    logger.info("epoch %d/%d  %s  best %s %.4g  (%s)", row["epoch"], epochs, metrics, key, best[key], speed)
