"""Reading of batches of images, in this process or in workers. Every random draw depends only on (seed, epoch, image),
so the number of worker processes does not change the batches.
"""

import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rexnet.data.decode import BadImagePolicy
from rexnet.errors import BadImageError
from rexnet.processes import unchanged

logger = logging.getLogger(__name__)

# First entry of every seed, so that no two uses share a stream of random numbers.
ORDER, _IMAGE, MIX, CROP = 0, 1, 2, 3


class NamedImages(Protocol):
    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...


class BatchSource(NamedTuple):
    """Source of batches: a sample is `transform(fetch(index))`, and a batch is `stack(samples)`; all fields must be
    picklable."""

    images: NamedImages
    fetch: Callable[[int], Any]
    transform: Callable[[Any], Any]
    stack: Callable[[list[Any]], Any]


class Wanted(NamedTuple):
    """A batch to read. `random_key` is None if nothing is random; otherwise `indices` may contain repeats, see
    `rexnet.data.splits.balanced_draws`, and each repeat is augmented differently."""

    indices: np.ndarray
    random_key: tuple[int, int] | None = None  # seed, epoch
    at_least: int = 0


class Read(NamedTuple):
    """Result of reading a batch. `samples`: the batch that `stack` returned, None if too few images can be read; `bad`:
    (name, reason) of the others."""

    samples: Any
    indices: torch.Tensor
    bad: list[tuple[str, str]]


@dataclass
class Plan:
    """The batches that the next pass over a loader reads."""

    wanted: list[Wanted]

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self.wanted)

    def __len__(self) -> int:
        return len(self.wanted)


class BatchReader(Dataset):
    """Reader of batches, in this process or in a worker. Bad images are returned, not raised: an exception would arrive
    from a worker wrapped in its traceback."""

    def __init__(self, source: BatchSource, *, bad_image: BadImagePolicy):
        self._source, self._bad_image = source, bad_image

    def __getitem__(self, wanted: Wanted) -> Read:
        if wanted.random_key is None:
            return self._read(wanted)
        with keep_random_state():
            return self._read(wanted)

    def _read(self, wanted: Wanted) -> Read:
        samples: list[Any] = []
        indices: list[int] = []
        bad: list[tuple[str, str]] = []
        for draw in self._candidates(wanted, indices):
            index = draw % len(self._source.images)
            if wanted.random_key:
                seed_all(_IMAGE, *wanted.random_key, draw)
            try:
                samples.append(self._source.transform(self._source.fetch(index)))
            except BadImageError as error:
                bad.append((self._source.images.name(index), error.reason))
                if self._bad_image == "error":
                    break
                continue
            indices.append(index)
        enough = len(samples) >= max(wanted.at_least, 1)
        return Read(self._source.stack(samples) if enough else None, torch.tensor(indices, dtype=torch.int64), bad)

    def _candidates(self, wanted: Wanted, read: list[int]) -> Iterator[int]:
        """Yield the wanted indices, then those after the last one, wrapping around, until enough are in `read`."""
        tried = wanted.indices.tolist()
        yield from tried
        for step in range(1, len(self._source.images)):
            if len(read) >= wanted.at_least:
                return
            index = (tried[-1] + step) % len(self._source.images)
            if index not in tried:
                yield index


def make_loader(
    reader: BatchReader, plan: Plan, *, workers: int, pin_memory: bool, start_method: str | None
) -> DataLoader:
    """Return a loader that yields a `Read` for each batch in `plan`, which may change between passes."""
    return DataLoader(
        reader,
        batch_size=None,  # the reader makes the batches
        sampler=plan,
        num_workers=workers,
        collate_fn=unchanged,
        worker_init_fn=_outlive_a_signal,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator(),  # otherwise each epoch would draw from the caller's generator
    )


def _outlive_a_signal(_worker: int) -> None:
    """Ignore SIGINT, SIGHUP and SIGTERM, which may reach every process of a run: the main process still needs batches
    at that point, and stops its workers once it has saved its state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS and Windows do not report the sender of a signal
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_the_main_process, daemon=True).start()


def _obey_the_main_process() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def account(bad: list[tuple[str, str]], policy: BadImagePolicy, skipped: list[str]) -> None:
    """Raise BadImageError for the first of `bad`, or log the new ones and add their names to `skipped`."""
    for name, reason in bad:
        if policy == "error":
            # Not kept in a variable, which would create a reference cycle with the loader: each worker process of a
            # loader freed by the garbage collector takes five seconds to stop.
            raise BadImageError(name, reason)
        if name not in skipped:
            skipped.append(name)
            logger.warning("skipped: %s", BadImageError(name, reason))


def seed_all(*key: int) -> None:
    """Seed the global generators of random, numpy and torch with a key that no other use shares."""
    # Python hashes a string cryptographically, so similar keys give unrelated seeds.
    random.seed(" ".join(map(str, key)))
    np.random.seed(random.getrandbits(32))
    torch.default_generator.manual_seed(random.getrandbits(63))  # torch.manual_seed would also touch every accelerator


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Restore the caller's random generators on exit."""
    state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
