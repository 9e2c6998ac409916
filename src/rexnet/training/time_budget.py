"""--max-minutes: the speed of the first steps determines, once, a run's number of epochs."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, count
from tempfile import TemporaryDirectory
from typing import Any, Generic, NamedTuple, TypeVar, cast

from torch import nn

from rexnet.errors import OptionError
from rexnet.text import duration_text, plural, time_left_text
from rexnet.training.config import LoopConfig
from rexnet.training.distributed import World
from rexnet.training.evaluation import SizedBatches
from rexnet.training.loop import Task, Training
from rexnet.training.resume import changed_options, settings_to_resume
from rexnet.training.run_folder import RunFolder
from rexnet.training.steps import Batches, group_batches

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=LoopConfig)

_USED = 0.95
"""Fraction of the remaining time to plan for, since other work may slow the machine down."""
_LEAST_STEPS = 3
_MEASURED = 0.02
"""Fraction of --max-minutes for measuring steps, and again for evaluation, each up to `_MOST_SECONDS`."""
_MOST_SECONDS = 20.0
_WITHOUT_PACE = frozenset({"epochs", "warmup_epochs", "budget", "measured"})
"""Options that do not change the time of a step."""


class TimeLimit(NamedTuple, Generic[Settings]):
    """Start time of a command, and its settings as a function of the number of epochs."""

    began: float
    """Start time, from time.monotonic()."""
    with_epochs: Callable[[int], Settings]

    @classmethod
    def of_command(
        cls, began: float, given: dict[str, Any], make: Callable[[dict[str, Any]], Settings]
    ) -> "TimeLimit[Settings]":
        """Return the limit of a command; `make` turns its `given` options into settings."""
        return cls(began, lambda epochs: make({**given, "epochs": epochs}))

    @classmethod
    def of_settings(cls, config: Settings) -> "TimeLimit[Settings]":
        """Return the limit, starting now, for settings that do not depend on the number of epochs."""
        return cls(time.monotonic(), lambda epochs: _with_schedule(config, epochs=epochs))


class Speed(NamedTuple):
    """Seconds that the parts of a run take."""

    start: float
    """Before the first step: data, weights, compiling."""
    step: float
    """A weight update, including reading its images."""
    evaluation: float
    """An epoch's evaluation and checkpoints."""
    steps: int
    """Steps per epoch."""

    @property
    def epoch(self) -> float:
        return self.steps * self.step + self.evaluation


def choose_epochs(
    config: Settings, limit: TimeLimit[Settings], measure: Callable[[Settings], Speed], *, world: World
) -> Settings:
    """Return the settings with the most epochs that --max-minutes allows, at most the epochs of `config`.

    Recipes depend on the number of epochs: if the settings for the epochs that fit have another speed, it is measured
    as well, and the smaller number of epochs is used. A resumed run keeps its epochs. Raise OptionError if not even one
    epoch fits.
    """
    minutes, wanted = config.schedule.max_minutes, config.schedule.epochs
    if minutes is None or settings_to_resume(config):
        return config
    if world.is_main:
        logger.info("--max-minutes %g: measuring the first steps", minutes)
    measured: list[Settings] = []
    while True:
        speed, elapsed = world.from_main((measure(config), time.monotonic() - limit.began))
        measured.append(config)
        left = 60 * minutes - elapsed - speed.start
        epochs = min(config.schedule.epochs, math.floor(_USED * left / speed.epoch))
        if epochs < 1:
            raise OptionError(_too_short(minutes, speed, elapsed=elapsed))
        if epochs == config.schedule.epochs:
            break
        config = limit.with_epochs(epochs)
        if any(not changed_options(config, other, may_change=_WITHOUT_PACE) for other in measured):
            break
    if world.is_main:
        parts = (
            f"{plural(speed.steps, 'step')} of {speed.step:.3g} s, {speed.evaluation:.3g} s for evaluation and saving"
        )
        text = "%d of %d epochs of %s (%d %s); %s"
        end = time_left_text(speed.start + epochs * speed.epoch)
        logger.info(text, epochs, wanted, duration_text(speed.epoch), speed.steps, parts, end)
    facts = {
        "minutes": minutes,
        "seconds_per_step": round(speed.step, 4),
        "seconds_per_evaluation": round(speed.evaluation, 4),
        "epochs": epochs,
    }
    return _with_schedule(config, measured=facts)


def _with_schedule(config: Settings, **changes: Any) -> Settings:
    return cast(Any, replace)(config, schedule=replace(config.schedule, **changes))


def _too_short(minutes: float, speed: Speed, *, elapsed: float) -> str:
    needed = math.ceil((elapsed + speed.start + speed.epoch / _USED) / 6) / 10
    return (
        f"--max-minutes is {minutes:g}, but an epoch takes {duration_text(speed.epoch)} here, and "
        f"{duration_text(elapsed + speed.start)} pass before the first; allowed: {needed:g} or more; smaller images, "
        "a smaller network or fewer images would be faster"
    )


def measure_speed(
    model: nn.Module,
    batches: tuple[Batches, SizedBatches],
    make_task: Callable[[Any], Task],
    *,
    config: LoopConfig,
    world: World,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Train `model` for a few steps, evaluate it on a few images, and save it to a temporary folder; discard `model`
    afterwards. Every process must call this function, and gets its own times."""
    limit = min(_MEASURED * 60 * (config.schedule.max_minutes or math.inf), _MOST_SECONDS)
    accumulate = min(config.run.accumulate, len(batches[0]))
    config = cast(Any, replace)(config, run=replace(config.run, accumulate=accumulate))
    train = _FirstBatches(batches[0], clock, lambda seconds: world.from_main(seconds > limit), accumulate=accumulate)
    val = _FirstBatches(batches[1], clock, lambda seconds: seconds > limit)
    task, evaluated = make_task(val), [0.0]

    def evaluate(network: nn.Module) -> dict[str, float]:
        began = clock()
        metrics = task.evaluate(network)
        evaluated[0] = clock() - began
        return metrics

    with TemporaryDirectory(prefix="rexnet-speed-") as folder:
        timed = task._replace(evaluate=evaluate)
        training = Training(model, train, timed, config=config, run=RunFolder(folder), world=world)
        began = clock()
        try:
            training.run_epoch()
        finally:
            training.close()
        saved = clock() - began - train.seconds - evaluated[0]
    first, *others = train.intervals
    step = sum(others) / len(others)
    return Speed(
        start=max(0.0, first - step),
        step=step,
        evaluation=saved + evaluated[0] * len(val) / max(1, len(val.intervals)),
        steps=training.steps,
    )


class _FirstBatches:
    """The first batches of training or validation: at least `_LEAST_STEPS` steps of `accumulate` batches, if there are
    as many, and until `is_enough(seconds)`. `intervals` are the seconds from one step to the next."""

    def __init__(
        self, batches: Any, clock: Callable[[], float], is_enough: Callable[[float], bool], *, accumulate: int = 1
    ):
        self._batches, self._clock, self._is_enough, self._accumulate = batches, clock, is_enough, accumulate
        self.intervals: list[float] = []
        # Only for training batches; the loop does not ask validation batches for it.
        self.images_per_batch, self.num_images = (getattr(batches, n, 0) for n in ("images_per_batch", "num_images"))

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def seconds(self) -> float:
        return sum(self.intervals)

    def __iter__(self) -> Iterator[Any]:
        return self._first(self._batches)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Any]:
        """Yield the batches of one epoch after another."""
        return self._first(chain.from_iterable(map(self._batches.epoch, count(epoch))))

    def _first(self, batches: Iterable[Any]) -> Iterator[Any]:
        asked = self._clock()
        for step in group_batches(batches, self._accumulate):
            yield from step
            asked, before = self._clock(), asked
            self.intervals.append(asked - before)
            if self._is_enough(self.seconds) and len(self.intervals) >= _LEAST_STEPS:
                return
