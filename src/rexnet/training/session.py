"""Training session, to which `rexnet train` and `rexnet detect train` pass the parts of their tasks."""

import ctypes
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from rexnet.data.facts import DataFacts
from rexnet.data.image_set import ImageSet
from rexnet.processes import without_logs
from rexnet.text import plural, printable
from rexnet.training.config import LoopConfig
from rexnet.training.curves import require_tensorboard
from rexnet.training.distributed import World, joined
from rexnet.training.evaluation import SizedBatches
from rexnet.training.loop import Task, fit
from rexnet.training.metrics import METRICS
from rexnet.training.optimization import check_optimizer
from rexnet.training.resume import (
    accept_settings,
    config_to_dict,
    folder_to_resume,
    note_data,
    require_data,
    resumable,
    warn_of_lost_best,
)
from rexnet.training.run_folder import DATA, ENVIRONMENT, RunFolder, describe_environment, next_free_folder
from rexnet.training.steps import Batches, total_batch
from rexnet.training.time_budget import Speed, TimeLimit, choose_epochs, measure_speed

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=LoopConfig)

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Largest value that glibc allows on 64-bit systems.
_LARGEST_KEPT_BYTES = 32 * 2**20
_NEVER = 2**31 - 1


class Parts(NamedTuple):
    """Parts of a session that depend on the task, created before any file is written."""

    name: str
    """Name of the network, for summary.json."""
    facts: DataFacts
    model: nn.Module
    batches: tuple[Batches, SizedBatches]
    """Training and validation batches of this process."""
    task: Callable[[Any], Task]
    """Function that returns the task for the given validation batches."""
    fit: Callable[[RunFolder], tuple[dict[str, Any], list[str]]] | None = None
    """Function that trains in a run folder, replacing the loop on `batches`; it returns the best epoch's row and the
    names of the images that could not be read."""
    opening: tuple[str, ...] = ()
    """Lines to log before the run folder and the data."""
    notes: tuple[str, ...] = ()
    """Lines to log after the run folder and the data."""
    skipped: tuple[str, ...] = ()
    """Images that are skipped before any image is read."""
    samples: ImageSet | None = None
    """Images from which one per class is saved, as samples for predictions."""


def run_session(
    config: Settings,
    prepare: Callable[[Settings, World], Parts],
    *,
    goal: str,
    command: str,
    limit: TimeLimit[Settings] | None = None,
) -> dict[str, Any]:
    """Train with the settings of `config` and write all results to the run folder; return the content of summary.json.

    `prepare` loads data and weights, and raises ValueError if they do not match the settings; before it returns,
    nothing is written and no older run is replaced. `command` is the command that continues a stopped run.
    --max-minutes counts from the start of `limit`, or from now.
    """
    limit = limit or TimeLimit.of_settings(config)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if config.run.tensorboard:
        require_tensorboard()
    require_data(config)
    with joined(config.run.device) as world:
        if world.device.type == "cpu":
            keep_freed_memory()
        config = choose_epochs(config, limit, partial(_measure, prepare, world=world), world=world)
        parts = prepare(config, world)
        check_optimizer(
            parts.model, config.optim, config.schedule, total_batch=total_batch(parts.batches[0], config, world)
        )
        with closing(open_run(config, world)) as run:
            try:
                _begin(parts, config, run=run, world=world)
                with resumable(run, world, command=command):
                    best, skipped = parts.fit(run) if parts.fit else _fit(parts, config, run=run, world=world)
            except Exception:  # Stopped is not an Exception, so it keeps the folder for --resume
                if world.is_main and not config.run.resume:
                    run.remove_start()
                raise
            skipped = sorted({*skipped, *map(printable, parts.skipped)})
            return _write_summary(run, parts, best, goal=goal, skipped=skipped, world=world)


def _measure(prepare: Callable[[Settings, World], Parts], config: Settings, *, world: World) -> Speed:
    """Measure the speed of a run with the settings `config`, without writing to its folder."""
    began = time.perf_counter()
    with without_logs():
        parts = prepare(config, world)
        prepared = time.perf_counter() - began
        speed = measure_speed(parts.model, parts.batches, parts.task, config=config, world=world)
    return speed._replace(start=prepared + speed.start)


def _fit(parts: Parts, config: LoopConfig, *, run: RunFolder, world: World) -> tuple[dict[str, Any], list[str]]:
    task = parts.task(parts.batches[1])
    return fit_batches(parts.model, parts.batches, task, config=config, run=run, world=world)


def fit_batches(
    model: nn.Module, batches: tuple[Batches, Any], task: Task, *, config: LoopConfig, run: RunFolder, world: World
) -> tuple[dict[str, Any], list[str]]:
    """Run the loop with `batches`, for training and for validation; return the best epoch's row and the unreadable
    images of both."""
    best = fit(model, batches[0], task, config=config, run=run, world=world)
    return best, skipped_images(batches, world)


def _begin(parts: Parts, config: LoopConfig, *, run: RunFolder, world: World) -> None:
    """Record the facts about the data and log the start; for a resumed run, check that the data has not changed."""
    if world.is_main:
        _check_free_space(run, parts.model)
    new = not run.holds(DATA)
    note_data(run, parts.facts, main=world.is_main)
    if new and world.is_main and parts.samples is not None:
        run.save_samples(parts.samples)
    world.wait()
    if world.is_main:
        for line in (*parts.opening, f"run folder: {run.path}", parts.facts.description, *parts.notes):
            logger.info("%s", line)
        images, batch_size = total_batch(parts.batches[0], config, world) // world.size, config.run.batch_size
        if images < batch_size * config.run.accumulate:
            times = f" times --accumulate {config.run.accumulate}" if config.run.accumulate > 1 else ""
            text = "--batch-size is %d%s, but a process has %d training %s; the learning rate follows the smaller batch"
            logger.warning(text, batch_size, times, images, plural(images, "image"))


def _check_free_space(run: RunFolder, model: nn.Module) -> None:
    """Raise OSError if the disk is too full for best.pt and last.pt, which hold at least the weights."""
    needed = 2 * sum(values.nbytes for values in model.state_dict().values())
    free = shutil.disk_usage(run.path).free
    if free < needed:
        raise OSError(
            f"the disk of {printable(run.path)} has {free / 1e6:,.0f} MB free, but checkpoints need more than "
            f"{needed / 1e6:,.0f} MB; use --output for a folder elsewhere"
        )


def open_run(config: LoopConfig, world: World) -> RunFolder:
    """Return the run folder, the same on every process, locked and with config.json and environment.json. A resumed run
    keeps its config; raise ValueError, listing the differing options, if `config` is another.
    """
    if not world.is_main:
        return RunFolder(world.from_main(None))
    resume = config.run.resume
    path = folder_to_resume(config) if resume else config.run.output and Path(config.run.output)
    run = RunFolder(path or next_free_folder(*config.subject))
    run.lock()
    try:
        for left in run.path.glob(".*.unfinished"):  # left by a killed process
            left.unlink()
        if resume and run.holds("config.json"):
            accept_settings(run, config)
        else:
            run.prepare(overwrite=config.run.overwrite)
            run.write("config.json", config_to_dict(config))
        if not run.holds(ENVIRONMENT):
            run.write(ENVIRONMENT, describe_environment(world))
    except BaseException:
        run.close()
        raise
    world.from_main(str(run.path))
    return run


def skipped_images(batches: tuple[Any, ...], world: World) -> list[str]:
    """Return the sorted names of the images that any process could not read."""
    return sorted({printable(name) for name in world.gather([name for part in batches for name in part.skipped])})


def loader_options(world: World, *, batch_size: int, workers: int | None, bad_image: str) -> dict[str, Any]:
    """Return the arguments common to all loaders of this process."""
    return {
        "batch_size": batch_size,
        "workers": choose_workers(workers, world),
        "rank": world.rank,
        "world_size": world.size,
        "bad_image": bad_image,
        "pin_memory": world.device.type == "cuda",
    }


def choose_workers(workers: int | None, world: World) -> int:
    """Return the number of loader processes: as given, else up to 8 with a GPU and 0 without."""
    if workers is not None:
        return workers
    return min(8, (os.cpu_count() or 1) // world.size) if world.device.type == "cuda" else 0


def _write_summary(
    run: RunFolder, parts: Parts, best: dict[str, Any], *, goal: str, skipped: list[str], world: World
) -> dict[str, Any]:
    """Write summary.json in the main process and return its content on every process: network, data, the best epoch's
    row, and the images that could not be read."""
    if run.holds("summary.json"):  # resuming a finished run reads no images
        skipped = sorted({*skipped, *run.read("summary.json")["skipped"]})
    subject = {"run": str(run.path), "model": parts.name, "data": parts.facts.description}
    summary = {**subject, "goal": goal, "best": best, "skipped": skipped}
    if world.is_main:
        run.write("summary.json", summary)
        warn_of_lost_best(run)
        metric = METRICS[goal]
        logger.info("best %s %s, of epoch %d: %s", metric.label, metric.text(best[metric.key]), best["epoch"], run.best)
    return summary


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of returning it to the system. Return False if that is not possible.

    Every training step allocates the same few gigabytes. By default, glibc returns large blocks at once, and the system
    clears all their pages on the next access, which takes a fifth of a step's time. Blocks above 32 MiB are still
    returned, so the peak does not change (results/training_step_cpu.jsonl).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    kept = library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES) and library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    return bool(kept)
