"""Worker processes: a parallel map over many items, and the errors of workers."""

import logging
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from rexnet.errors import LostProcessError
from rexnet.text import time_left_text

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_SAY_EVERY_S = 30.0


def in_parallel(task: Callable[[Item], Result], items: Sequence[Item], *, workers: int, label: str) -> Iterator[Result]:
    """Yield `task(item)` for every item, in order, from `workers` processes; 0: from this one. Progress is logged if
    the work takes long. PyTorch's loader does the work: few results are buffered, and workers end when this process
    ends, is stopped or is killed. `task` goes to each worker once; with fork, it shares this process's memory. Raise
    LostProcessError if a worker dies.
    """
    import torch
    from torch.utils.data import DataLoader

    tasks: Any = _Tasks(task)
    loader = DataLoader(
        tasks,
        batch_size=None,
        sampler=items,
        num_workers=min(workers, len(items)),
        collate_fn=unchanged,
        generator=torch.Generator(),  # otherwise it would draw from the caller's generator
    )
    with explaining_dead_workers():
        with starting_workers():
            results = iter(loader)
        yield from log_progress(results, len(items), label=label)


@contextmanager
def without_logs(level: int = logging.CRITICAL) -> Iterator[None]:
    """Suppress log messages up to `level` within this context."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)


def log_progress(results: Iterable[Result], total: int, *, label: str) -> Iterator[Result]:
    """Yield the `total` results, and log the progress every half minute."""
    began = last_said = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        if (now := time.monotonic()) > last_said + _SAY_EVERY_S and done < total:
            last_said = now
            left = time_left_text((now - began) * (total - done) / done)
            logger.info("%s: %.0f %% done, %s", label, 100 * done / total, left)


@contextmanager
def starting_workers() -> Iterator[None]:
    """Block SIGINT in the processes that start inside this context; in this one it is delivered afterwards.

    A terminal sends Ctrl-C to every process of a command. The main process ends its workers; a worker that gets the
    signal first would die with a traceback and look like the cause.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def explaining_dead_workers() -> Iterator[None]:
    """Turn the errors that a loader raises if a worker process dies into LostProcessError."""
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        if (sentence := dead_worker(error)) is None:
            raise
        raise LostProcessError(sentence) from error


def dead_worker(error: Exception) -> str | None:
    """Explain the error of a loader whose worker process died; None for other errors."""
    found = re.search(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)", str(error))
    # A worker that dies while it hands over a batch breaks a connection; an error of its own comes with its traceback.
    broken = isinstance(error, (EOFError, ConnectionError)) and "DataLoader worker process" not in str(error)
    if not (found or broken):
        return None
    pid = f" (pid {found[1]})" if found else ""
    shared = f" of {shutil.disk_usage('/dev/shm').total / 2**20:,.0f} MiB" if os.path.isdir("/dev/shm") else ""
    return (
        f"a worker process{pid} ended unexpectedly, usually for lack of memory, or of space in "
        f"/dev/shm{shared}; use fewer --workers or --processes"
    )


def usable_cpus() -> int:
    """Count the CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Tasks(Generic[Item, Result]):
    def __init__(self, task: Callable[[Item], Result]):
        self._task = task

    def __getitem__(self, item: Item) -> Result:
        return self._task(item)


def unchanged(result: Any) -> Any:
    """Return `result` unchanged: the `collate_fn` of a loader without batches."""
    return result


def is_main_process() -> bool:
    """Return True if this process is the only one, or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """Return the number of processes of the run, 1 unless torchrun started this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))
