"""One function over many items in several processes."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_SAY_EVERY_S = 30.0


def in_parallel(task: Callable[[Item], Result], items: Sequence[Item], *, workers: int, label: str) -> Iterator[Result]:
    """`task` of every item, in order, in `workers` processes; 0: in this one. Long work logs how far it is.

    PyTorch's loader does the work: few results wait at a time, and workers end when this process ends, is stopped or
    is killed. `task` goes to each worker once; with fork it shares this process's memory. Raises OSError where a worker
    dies.
    """
    loader = DataLoader(
        _Tasks(task),
        batch_size=None,
        sampler=items,
        num_workers=min(workers, len(items)),
        collate_fn=_unchanged,
        generator=torch.Generator(),  # or else it would draw from the caller's generator
    )
    last_said = time.monotonic()
    try:
        for done, result in enumerate(loader, start=1):
            yield result
            if time.monotonic() > last_said + _SAY_EVERY_S:
                last_said = time.monotonic()
                logger.info("%s: %.0f %% done", label, 100 * done / len(items))
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        raise OSError(
            "a worker process was killed, perhaps for want of memory; --workers with fewer may help"
        ) from error


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Tasks(Dataset, Generic[Item, Result]):
    def __init__(self, task: Callable[[Item], Result]):
        self._task = task

    def __getitem__(self, item: Item) -> Result:
        return self._task(item)


def _unchanged(result: Any) -> Any:
    return result
