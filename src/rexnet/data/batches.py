"""Batches in order and shuffled batches, the base classes of each task's loaders."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, Required, TypedDict, TypeVar, Unpack

import numpy as np
import torch

from rexnet.data.batch_reading import BatchReader, BatchSource, Plan, Read, Wanted, account, make_loader
from rexnet.data.decode import BadImagePolicy
from rexnet.processes import explaining_dead_workers

Batch = TypeVar("Batch")


class LoaderOptions(TypedDict, total=False):
    """Options of every loader; see `LoadedBatches`."""

    batch_size: Required[int]
    workers: int
    rank: int
    world_size: int
    bad_image: BadImagePolicy
    pin_memory: bool
    start_method: str | None


class TrainLoaderOptions(LoaderOptions, total=False):
    """Options of every training loader; see `ShuffledBatches`."""

    seed: Required[int]
    device: torch.device | str


class LoadedBatches(ABC, Generic[Batch]):
    """Batches of rank `rank` of `world_size`. With bad_image="skip", images that cannot be read are skipped, logged and
    listed by name in `skipped`; with "error" the first one raises BadImageError. Raise ValueError for a batch size
    below `least`."""

    def __init__(
        self,
        source: BatchSource,
        *,
        batch_size: int,
        least: int = 1,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        bad_image: BadImagePolicy = "error",
        pin_memory: bool = False,
        start_method: str | None = None,
    ):
        if batch_size < least:
            raise ValueError(f"batch size is {batch_size}; allowed: {least} or more")
        self.skipped: list[str] = []
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._bad_image: BadImagePolicy = bad_image
        self._plan = Plan([])
        reader = BatchReader(source, bad_image=bad_image)
        self._loader = make_loader(
            reader, self._plan, workers=workers, pin_memory=pin_memory, start_method=start_method
        )

    def _read(self, wanted: list[Wanted]) -> Iterator[Read]:
        self._plan.wanted = wanted
        with explaining_dead_workers():
            for read in self._loader:
                account(read.bad, self._bad_image, self.skipped)
                yield read


class OrderedBatches(LoadedBatches[Batch]):
    """Every image of this rank (`rank`, `rank` + `world_size`, ...) exactly once, in order, without padding; may be
    iterated repeatedly. `num_images` counts those of this rank."""

    def __init__(self, source: BatchSource, **options: Unpack[LoaderOptions]):
        super().__init__(source, **options)
        mine = np.arange(self._rank, len(source.images), self._world_size)
        self.num_images = len(mine)
        starts = range(0, len(mine), self._batch_size)
        self._wanted = [Wanted(mine[start : start + self._batch_size]) for start in starts]

    def __len__(self) -> int:
        return len(self._wanted)

    def __iter__(self) -> Iterator[Batch]:
        for read in self._read(self._wanted):
            if read.samples is not None:
                yield self._finish(read)

    @abstractmethod
    def _finish(self, read: Read) -> Batch:
        """Return the batch made of `read`."""


class ShuffledBatches(LoadedBatches[Batch]):
    """Shuffled, augmented batches; `len()` is the number of steps per epoch, equal on all ranks. An epoch depends on
    (seed, epoch) only, not on the number of workers.

    A batch with fewer than `least` readable images is filled up with the images that follow in the set. Batches are on
    `device`, except the indices. Raise ValueError for fewer than `least` images per rank, and for a negative seed.
    """

    def __init__(
        self,
        source: BatchSource,
        *,
        seed: int,
        least: int = 1,
        device: torch.device | str = "cpu",
        **options: Unpack[LoaderOptions],
    ):
        super().__init__(source, least=least, **options)
        if seed < 0:
            raise ValueError(f"seed is {seed}; allowed: 0 or more")
        count = len(source.images)
        if count < least * self._world_size:
            raise ValueError(
                f"there are {count} training images for {self._world_size} processes; allowed: {least} or more for each"
            )
        self._num_indices, self._seed, self._least, self._device = count, seed, least, device

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from step `start_step` on; only one epoch may be open at a time. The same
        arguments always give the same batches, and the caller's random generators are not changed."""
        order = self._order(epoch)[start_step:]
        wanted = [Wanted(indices, (self._seed, epoch), at_least=self._least) for indices in order]
        for step, read in enumerate(self._read(wanted), start=start_step):
            if read.samples is None:
                few = "none" if self._least == 1 else f"fewer than {self._least}"
                raise ValueError(f"{few} of {self._num_indices:,} training images can be read")
            yield self._finish(read, (self._seed, epoch, step, self._rank))

    @abstractmethod
    def _order(self, epoch: int) -> list[np.ndarray]:
        """Return the indices of each batch of an epoch, assuming that all images can be read."""

    @abstractmethod
    def _finish(self, read: Read, random_key: tuple[int, int, int, int]) -> Batch:
        """Return the batch made of `read`; `random_key` seeds the random operations on the device."""
