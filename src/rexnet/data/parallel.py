"""One function over many items in several processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(task: Callable[[Item], Result], items: Sequence[Item], *, workers: int) -> Iterator[Result]:
    """`task` of every item, in order, in `workers` processes; 0: in this one.

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
    try:
        yield from loader
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
