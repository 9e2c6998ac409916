"""Training loop, to which classification, detection and search pass different functions."""

import json
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rexnet.text import plural, printable
from rexnet.training import checkpoint
from rexnet.training.config import Amp, LoopConfig
from rexnet.training.curves import EventLog
from rexnet.training.distributed import World
from rexnet.training.interruption import Stopped
from rexnet.training.metrics import METRICS
from rexnet.training.norm_statistics import LastBatches, measure_norms
from rexnet.training.optimization import Updater, make_rate, note_discarded
from rexnet.training.progress import EpochProgress, hours_warning, log_epoch
from rexnet.training.resume import log_finished, newest_checkpoint
from rexnet.training.run_folder import RunFolder
from rexnet.training.steps import Batches, group_batches, step_seed, total_batch

logger = logging.getLogger(__name__)


class Task(NamedTuple):
    """A task's functions, which the loop calls, and its metrics."""

    loss: Callable[[nn.Module, Any], Tensor | dict[str, Tensor]]
    """loss(model, batch): a scalar, or a dict of scalars, of which "loss" is minimised and the others are only
    logged."""
    evaluate: Callable[[nn.Module], dict[str, float]]
    pack: Callable[[Any, dict[str, Any]], dict[str, Any]]
    """pack(model, metrics): the content of a checkpoint, see `checkpoint.pack`."""
    name_image: Callable[[int], str]
    own: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    """own(state_dict): the trained model's weights in a checkpoint that also holds others."""
    goal: str = "top1"
    """Metric in the result of `evaluate` whose best value selects best.pt."""
    logged: tuple[str, ...] | None = None
    """Metrics of `evaluate` to show in an epoch's log line; None: all."""
    shorter: tuple[str, ...] = ()
    """Options, with values, that would shorten the run."""
    static: Callable[[nn.Module], nn.Module] = lambda model: model
    """static(model): the part of the model that torch.compile can compile as a whole."""


def fit(
    model: nn.Module, batches: Batches, task: Task, *, config: LoopConfig, run: RunFolder, world: World
) -> dict[str, Any]:
    """Train `model` for all epochs, or for the remaining ones if `run` has a checkpoint to continue from.

    After each epoch, write a row of metrics, last.pt and, if its metric is the best so far, best.pt to `run`; within an
    epoch, write last.pt every `config.run.save_minutes`. Return the best epoch's row. All randomness comes from (seed,
    step, rank) and from `batches`, so a run that was killed and resumed ends with exactly the weights of an
    uninterrupted run. Raise Stopped, after saving, on a request to stop, and NonFiniteError, naming the images, if too
    many steps fail.
    """
    training = Training(model, batches, task, config=config, run=run, world=world)
    try:
        with world.stop.deferred():
            while not training.finished:
                training.run_epoch()
    finally:
        training.close()
    return training.best


class Training:
    """A run in progress. `updater`, `epoch`, `step`, `best` and `progress` hold its state between steps."""

    def __init__(
        self, model: nn.Module, batches: Batches, task: Task, *, config: LoopConfig, run: RunFolder, world: World
    ):
        layout = torch.channels_last if config.run.channels_last else torch.preserve_format
        model.to(world.device).to(memory_format=layout)
        dtype = choose_autocast(config.run.amp, world.device)
        self.batches, self.task, self.config, self.run, self.world = batches, task, config, run, world
        self.steps = -(-len(batches) // config.run.accumulate)
        self.rate = make_rate(config, total_batch=total_batch(batches, config, world), steps_per_epoch=self.steps)
        self.last = LastBatches(batches, config.optim.norm_images)
        self.updater = Updater(model, config.optim, self.rate, scale_gradients=dtype == torch.float16)
        self.epoch, self.step, self.discarded = 0, 0, 0
        self.evaluation_seconds = config.schedule.measured.get("seconds_per_evaluation", 0.0)
        self.best: dict[str, Any] = {}
        self.unfinished: dict[str, Any] | None = None
        """This process's progress in an interrupted epoch."""
        self._resume()
        with_events = config.run.tensorboard and world.is_main
        self.events = EventLog(run.path, done_epochs=self.epoch) if with_events else None
        if config.run.compile:
            task.static(model).compile()
        self.model, self.network = model, world.wrap(model)
        self.autocast = torch.autocast(world.device.type, dtype=dtype, enabled=dtype is not None)
        self.saved_at = time.monotonic()
        self.may_take_hours = world.is_main and world.device.type == "cpu" and not config.schedule.measured

    def close(self) -> None:
        """Close the event files."""
        if self.events:
            self.events.close()

    @property
    def finished(self) -> bool:
        schedule = self.config.schedule
        if schedule.patience is None or not self.best or self.epoch >= schedule.epochs:
            return self.epoch >= schedule.epochs
        restarts = (epoch for epoch in schedule.restart_epochs if epoch <= self.epoch)
        return self.epoch - max((self.best["epoch"], *restarts)) >= schedule.patience

    def run_epoch(self) -> None:
        """Run the rest of the current epoch, evaluate, and write the epoch's files."""
        self.network.train()
        epochs = self.config.schedule.epochs
        later = {
            "later_steps": (epochs - self.epoch - 1) * self.steps,
            "later_seconds": (epochs - self.epoch) * self.evaluation_seconds,
        }
        label = f"epoch {self.epoch + 1}/{epochs}"
        with EpochProgress(label, self.steps, visible=self.world.is_main, **later) as progress:
            if self.unfinished:
                progress.restore(self.unfinished, self.step)
            accumulate = self.config.run.accumulate
            batches = self.last.watch(self.batches.epoch(self.epoch, self.step * accumulate))
            for step in group_batches(progress.watch(batches), accumulate):
                self._run_step(step, progress)
        self._measure_norms()
        for module in dict.fromkeys((self.model, self.updater.evaluated)):
            self.world.share_buffers(module)
        lr = self.rate((self.epoch + 1) * self.steps - 1)
        metric = METRICS[self.task.goal]
        row = {"epoch": self.epoch + 1, "lr": lr, **_train_metrics(progress, self.world)}
        began = time.perf_counter()
        try:
            row |= {f"val_{name}": value for name, value in self.task.evaluate(self.updater.evaluated).items()}
        except Stopped:
            self._save(progress)
            raise
        self.evaluation_seconds = time.perf_counter() - began
        row["seconds"] = round(progress.seconds, 2)
        if self.discarded:
            row["discarded_steps"] = self.discarded
        if not self.best or metric.is_better(row[metric.key], self.best[metric.key]):
            self.best = row
        self.epoch, self.step, self.discarded, self.unfinished = self.epoch + 1, 0, 0, None
        self._finish_epoch(row)
        if self.world.is_main and self.finished and self.epoch < self.config.schedule.epochs:
            patience = self.config.schedule.patience
            assert patience is not None
            epochs = plural(patience, "epoch")
            logger.info("stopped early: %d %s without a better %s", patience, epochs, metric.label)

    def _run_step(self, batches: list[Any], progress: EpochProgress) -> None:
        """Update the weights with the mean loss over the images of `batches`."""
        step = self.epoch * self.steps + self.step
        torch.manual_seed(step_seed(self.config.run.seed, step, self.world.rank))
        self.updater.begin()
        images = sum(len(batch.indices) for batch in batches)
        means: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else self.world.keep_gradients(self.network):
                losses = self._losses(batch, fraction=len(batch.indices) / images)
                self.updater.backward(losses["loss"])
            means = {name: value.detach() + means.get(name, 0.0) for name, value in losses.items()}
        finite = self.updater.finish(step)
        stop = self.world.stop
        late = self.world.is_main and time.monotonic() - self.saved_at > 60 * self.config.run.save_minutes
        bad, stopping, saving = self.world.any(not finite, stop.requested, late)
        if bad:
            self.updater.discard()
            self._note_discarded(means["loss"], batches, finite=finite, step=step)
        else:
            self.updater.apply(step)
            progress.update(images, {name: float(value) for name, value in means.items()})
            self._warn_of_hours(progress)
        self.step += 1
        if stopping or saving:
            self._save(progress)
        if stopping:
            raise stop.stopped()

    def _measure_norms(self) -> None:
        if not self.config.optim.norm_images:
            return
        network = self.updater.evaluated.train(self.model.training)
        torch.manual_seed(step_seed(self.config.run.seed, (self.epoch + 1) * self.steps, self.world.rank))
        with self.autocast:
            measure_norms(network, partial(self.task.loss, network), self.last.of(self.epoch))

    def _losses(self, batch: Any, *, fraction: float) -> dict[str, Tensor]:
        """Return the losses of a batch times `fraction`, its fraction of the step's images."""
        with self.autocast:
            losses = self.task.loss(self.network, batch)
        losses = losses if isinstance(losses, dict) else {"loss": losses}
        return {name: value * fraction for name, value in losses.items()}

    def _warn_of_hours(self, progress: EpochProgress) -> None:
        """Warn once, after the first measured steps, if the run will take hours."""
        if self.may_take_hours and progress.is_measured:
            self.may_take_hours = False
            seconds, epoch = progress.run_seconds_left, self.steps * progress.step_seconds
            if warning := hours_warning(seconds, epoch_seconds=epoch, options=self.task.shorter):
                logger.warning("%s", warning)

    def _note_discarded(self, loss: Tensor, batches: list[Any], *, finite: bool, step: int) -> None:
        """Record the skipped step, and the images of the processes on which it failed."""
        self.discarded += 1
        what = "gradient is not finite" if loss.isfinite() else f"loss is {float(loss)}"
        indices = [] if finite else [int(index) for batch in batches for index in batch.indices]
        mine = [] if finite else [what, *(printable(self.task.name_image(index)) for index in indices)]
        counts = {"count": self.discarded, "of": self.steps, "epoch": self.epoch + 1, "step": step}
        note_discarded(mine, **counts, run=self.run, world=self.world)

    def _save(self, progress: EpochProgress) -> None:
        """Write last.pt with the position within the epoch; every process must call this method."""
        states = self.world.gather([json.dumps(progress.state())])
        if self.world.is_main:
            metrics = {"epoch": self.epoch + 1, "step": self.step}
            content = self.task.pack(self.updater.evaluated, metrics)
            self._write_last(content, [json.loads(text) for text in states])
            logger.info("saved after step %d of epoch %d: %s", self.step, self.epoch + 1, self.run.last)
        self.saved_at = time.monotonic()

    def _finish_epoch(self, row: dict[str, Any]) -> None:
        """Write the row, then best.pt, then last.pt; a run killed in between and resumed writes the same files
        again."""
        epochs = self.config.schedule.epochs
        if self.world.is_main:
            log_epoch(row, self.best, epochs=epochs, goal=self.task.goal, logged=self.task.logged)
            self.run.append(row)
            if self.events:
                self.events.add(row)
            content = self.task.pack(self.updater.evaluated, row)
            if row is self.best:
                checkpoint.save(self.run.best, content)
            self._write_last(content, None)
            # Plotting takes about a second, too much for epochs of a few seconds.
            if row["seconds"] > 20 or self.finished:
                self.run.draw_curves()
        self.saved_at = time.monotonic()

    def _write_last(self, content: dict[str, Any], progress: list[dict[str, Any]] | None) -> None:
        training = {
            "epoch": self.epoch,
            "step": self.step,
            "discarded": self.discarded,
            "figures": progress,
            "best": self.best,
            "processes": self.world.size,
            "updater": self.updater.state(),
        }
        checkpoint.save(self.run.last, {**content, "training": training}, keep=self.run.previous)

    def _resume(self) -> None:
        content = newest_checkpoint(self.run, self.world)
        if content is None:
            if self.world.is_main:
                self.run.keep_rows(epochs=0, steps=0)
            return
        training = content["training"]
        if training["processes"] != self.world.size:
            raise ValueError(
                f"{self.run.path} was trained with {training['processes']} processes, but now there are "
                f"{self.world.size}; continue it with torchrun --nproc-per-node {training['processes']}"
            )
        self.updater.restore(self.task.own(content["state_dict"]), training["updater"])
        self.epoch, self.step, self.best = training["epoch"], training["step"], training["best"]
        self.discarded = training["discarded"]
        self.unfinished = training["figures"] and training["figures"][self.world.rank]
        if self.world.is_main:
            self.run.keep_rows(epochs=self.epoch, steps=self.epoch * self.steps + self.step)
            if self.finished:
                log_finished(self.run, self.epoch)
            else:
                logger.info("continuing %s after step %d of epoch %d", self.run.path, self.step, self.epoch + 1)


def choose_autocast(amp: Amp, device: torch.device) -> torch.dtype | None:
    """Return the dtype of mixed precision, None for full precision. "auto" means full precision on hardware without
    fast half precision."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def _train_metrics(progress: EpochProgress, world: World) -> dict[str, float]:
    """Return means over the images of all processes, their images/s, and the fraction of time that this process spent
    waiting."""
    names = list(progress.sums)
    totals = world.sum(torch.tensor([*progress.sums.values(), progress.images], dtype=torch.float64)).tolist()
    means = {f"train_{name}": total / totals[-1] for name, total in zip(names, totals[:-1], strict=True)}
    speed = {"images_per_second": round(totals[-1] / progress.seconds, 3), "wait_share": round(progress.wait_share, 4)}
    return means | speed
