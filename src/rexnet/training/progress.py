"""What a run shows while it works: a bar in a terminal, nothing elsewhere."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


def speed_text(images_per_second: float) -> str:
    """Never 0 for a run that is only slow: detectors on a CPU may need seconds for an image."""
    digits = 0 if images_per_second >= 10 else 1 if images_per_second >= 1 else 2
    return f"{images_per_second:.{digits}f} images/s"


class EpochProgress:
    """Times one pass over batches and draws its bar: images/s, averages so far, time left, share of time spent waiting.

    Used as a context. The bar shows in a terminal only, and on the process that is `visible`.
    """

    def __init__(self, label: str, steps: int, *, visible: bool = True):
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not (visible and console.is_terminal),
            expand=True,
        )
        self._task = self._bar.add_task(label, total=steps, figures="")
        self._started = time.perf_counter()
        self.images = 0
        self.waited_seconds = 0.0
        self._sums: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def state(self) -> dict[str, Any]:
        """For `restore`: what a later process needs to finish this pass with the same figures."""
        return {"images": self.images, "waited": self.waited_seconds, "seconds": self.seconds, "sums": self.sums}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Goes on from `state` after `step` steps, inside the context."""
        self.images, self.waited_seconds, self._sums = state["images"], state["waited"], dict(state["sums"])
        self._started -= state["seconds"]
        self._bar.update(self._task, completed=step)

    def watch(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Hands on the batches and counts the time they take to arrive."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.waited_seconds += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def update(self, images: int, values: dict[str, float]) -> None:
        """Counts a step of `images` images; `values` are means over them."""
        self.images += images
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * images
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self.means().items())
        figures = f"{speed_text(self.images_per_second)}  {shown}  waiting for data {self.wait_share:.0%}"
        self._bar.update(self._task, advance=1, figures=figures)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    @property
    def wait_share(self) -> float:
        """Of the time so far, from 0 to 1."""
        return self.waited_seconds / max(self.seconds, 1e-9)

    @property
    def sums(self) -> dict[str, float]:
        """Of each value, weighted by images."""
        return dict(self._sums)

    def means(self) -> dict[str, float]:
        """Per image."""
        return {name: total / max(self.images, 1) for name, total in self._sums.items()}
