"""Batches for training and evaluation.

What an epoch delivers follows from (seed, epoch) alone: the order of the images, and for every image the state of the
random generators its augmentation draws from, so the number of worker processes changes nothing.
"""

import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from rexnet.data.class_balance import balanced_draws
from rexnet.data.decode import BadImageError, BadImagePolicy
from rexnet.data.labelled_images import ImageSet
from rexnet.data.transforms import BatchMixer, TrainTransform, Views

logger = logging.getLogger(__name__)

# First entry of every seed, so that no two uses share a stream of random numbers.
_ORDER, _IMAGE, _MIX = 0, 1, 2


class Batch(NamedTuple):
    """Images float32 (B, 3, H, W); targets int64 (B,), or float32 (B, K) after mixing; indices int64 (B,) into the
    image set, for names, on the CPU."""

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor


class _Wanted(NamedTuple):
    """One batch to read. `random_key` is None where nothing random happens; `indices` may be draws then, see
    `balanced_draws`: an image that comes again is augmented anew."""

    indices: np.ndarray
    random_key: tuple[int, int] | None = None  # seed, epoch
    at_least: int = 0


class _Read(NamedTuple):
    images: Any  # what the reader's `stack` makes; None where there are too few images
    targets: torch.Tensor
    indices: torch.Tensor
    bad: list[tuple[str, str]]  # (name, reason)


@dataclass
class _Plan:
    """The batches that the next pass over a loader reads."""

    wanted: list[_Wanted]

    def __iter__(self) -> Iterator[_Wanted]:
        return iter(self.wanted)

    def __len__(self) -> int:
        return len(self.wanted)


class TrainBatches:
    """Shuffled, augmented batches of rank `rank` of `world_size`; `len()` is the steps per epoch, equal on all ranks.

    Together the ranks' batches of one step are what one process with `world_size` times the batch size would read; when
    the images do not divide evenly, an epoch leaves out up to world_size - 1 of its last ones. A last batch of one
    image is merged into the one before, because batch normalisation cannot train on it.

    With bad_image="skip", images that cannot be read are left out, logged and listed by name in `skipped`; a batch left
    with fewer than two is filled up with the images that follow in the set. With "error" the first raises
    BadImageError.

    `balanced`: every class comes equally often, its images again or not at all as that takes; see `balanced_draws`.

    Batches are on `device`, indices aside. What crosses from a worker is uint8 and four times smaller than the batch;
    normalising, laying erased parts over and mixing happen on the device.

    `num_images`: images per epoch, over all ranks. Raises ValueError for a batch size below two, for fewer than two
    images per rank, and for a negative seed.
    """

    def __init__(
        self,
        image_set: ImageSet,
        transform: TrainTransform,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        bad_image: BadImagePolicy = "error",
        pin_memory: bool = False,
        mixer: BatchMixer | None = None,
        balanced: bool = False,
        start_method: str | None = None,
    ):
        if batch_size < 2:
            raise ValueError(f"batch size is {batch_size}, but batch normalisation trains on two images or more")
        if seed < 0:
            raise ValueError(f"seed is {seed}, but must be 0 or more")
        self._per_rank = len(image_set) // world_size
        if self._per_rank < 2:
            raise ValueError(f"{len(image_set)} training images for {world_size} processes, but each needs two or more")
        self.num_images = self._per_rank * world_size
        self.skipped: list[str] = []
        self._merge_last = self._per_rank % batch_size == 1 and self._per_rank > batch_size
        if self._merge_last:
            logger.info("the last batch of one image is merged into the one before")
        self._num_indices, self._batch_size = len(image_set), batch_size
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._balanced_targets = image_set.targets if balanced else None
        self._bad_image: BadImagePolicy = bad_image
        self._transform, self._mixer, self._device = transform, mixer, device
        self._plan = _Plan([])
        reader = _Reader(image_set, image_set.source, transform.draw, Views.of, bad_image)
        self._loader = _loader(reader, self._plan, workers, pin_memory, start_method)

    def __len__(self) -> int:
        return -(-self._per_rank // self._batch_size) - self._merge_last

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from step `start_step` on; one epoch at a time. The same arguments give the same
        batches, whatever was read before, and the caller's random generators are left as they are."""
        self._plan.wanted = self._order(epoch)[start_step:]
        for step, read in enumerate(self._loader, start=start_step):
            _account(read.bad, self._bad_image, self.skipped)
            if read.images is None:
                raise ValueError(f"no two of {self._num_indices:,} training images can be read")
            yield self._finish(read, (self._seed, epoch, step, self._rank))

    def _finish(self, read: _Read, random_key: tuple[int, int, int, int]) -> Batch:
        images = self._transform.finish(read.images, self._device)
        targets = read.targets.to(self._device, non_blocking=True)
        if self._mixer:
            with _random_state_kept():
                _seed_all(_MIX, *random_key)
                images, targets = self._mixer(images, targets)
        return Batch(images, targets, read.indices[: len(images)])

    def positions(self, epoch: int) -> list[np.ndarray]:
        """Of each batch of an epoch, the positions of its images in the set, as if all could be read."""
        return [wanted.indices % self._num_indices for wanted in self._order(epoch)]

    def _order(self, epoch: int) -> list[_Wanted]:
        generator, targets = np.random.default_rng([_ORDER, self._seed, epoch]), self._balanced_targets
        order = generator.permutation(self._num_indices) if targets is None else balanced_draws(targets, generator)
        mine = order[: self.num_images][self._rank :: self._world_size]
        cuts = np.arange(1, len(self)) * self._batch_size
        return [_Wanted(indices, (self._seed, epoch), at_least=2) for indices in np.split(mine, cuts)]


class EvalBatches:
    """Every image of rank `rank` (`rank`, `rank` + `world_size`, ...) exactly once, in order, never padded; iterate as
    often as needed. `num_images` is this rank's share. Images that cannot be read: as in `TrainBatches`, but nothing
    takes their place."""

    def __init__(
        self,
        image_set: ImageSet,
        preprocess: Callable[[Image.Image], torch.Tensor],
        *,
        batch_size: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        bad_image: BadImagePolicy = "error",
        pin_memory: bool = False,
        start_method: str | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch size is {batch_size}, but must be 1 or more")
        mine = np.arange(rank, len(image_set), world_size)
        self.num_images = len(mine)
        self.skipped: list[str] = []
        self._bad_image: BadImagePolicy = bad_image
        wanted = [_Wanted(mine[start : start + batch_size]) for start in range(0, len(mine), batch_size)]
        self._num_batches = len(wanted)
        if workers:
            preprocess(Image.new("RGB", (1, 1)))  # imports what it needs here, once, instead of in every worker
        reader = _Reader(image_set, image_set.load, preprocess, torch.stack, bad_image)
        self._loader = _loader(reader, _Plan(wanted), workers, pin_memory, start_method)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        for read in self._loader:
            _account(read.bad, self._bad_image, self.skipped)
            if read.images is not None:
                yield Batch(read.images, read.targets, read.indices)


class _Reader(Dataset):
    """Reads whole batches, in this process or in a worker. Bad images come back as data, not as exceptions, which would
    arrive from a worker wrapped into its traceback."""

    def __init__(
        self,
        image_set: ImageSet,
        fetch: Callable[[int], Any],
        transform: Callable[[Any], Any],
        stack: Callable[[list[Any]], Any],
        bad_image: BadImagePolicy,
    ):
        self._image_set, self._bad_image = image_set, bad_image
        self._fetch, self._transform, self._stack = fetch, transform, stack

    def __getitem__(self, wanted: _Wanted) -> _Read:
        if wanted.random_key is None:
            return self._read(wanted)
        with _random_state_kept():
            return self._read(wanted)

    def _read(self, wanted: _Wanted) -> _Read:
        images: list[Any] = []
        indices: list[int] = []
        bad: list[tuple[str, str]] = []
        for draw in self._candidates(wanted, indices):
            index = draw % len(self._image_set)
            if wanted.random_key:
                _seed_all(_IMAGE, *wanted.random_key, draw)
            try:
                images.append(self._transform(self._fetch(index)))
            except BadImageError as error:
                bad.append((self._image_set.name(index), error.reason))
                if self._bad_image == "error":
                    break
                continue
            indices.append(index)
        enough = len(images) >= max(wanted.at_least, 1)
        targets = torch.from_numpy(self._image_set.targets[indices])
        return _Read(self._stack(images) if enough else None, targets, torch.tensor(indices), bad)

    def _candidates(self, wanted: _Wanted, read: list[int]) -> Iterator[int]:
        """The wanted indices, then the ones after the last, round the whole set, while fewer than needed are `read`."""
        tried = wanted.indices.tolist()
        yield from tried
        for step in range(1, len(self._image_set)):
            if len(read) >= wanted.at_least:
                return
            index = (tried[-1] + step) % len(self._image_set)
            if index not in tried:
                yield index


def _loader(reader: _Reader, plan: _Plan, workers: int, pin_memory: bool, start_method: str | None) -> DataLoader:
    return DataLoader(
        reader,
        batch_size=None,  # the reader makes the batches
        sampler=plan,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_outlive_a_signal,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator(),  # or else each epoch would draw from the caller's generator
    )


def _outlive_a_signal(_worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM may reach every process of a run; the main one still needs batches then, and
    ends its workers itself when it has saved its state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS and Windows have no way to tell who sends a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_the_main_process, daemon=True).start()


def _obey_the_main_process() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _unchanged(read: Any) -> Any:
    return read


def _account(bad: list[tuple[str, str]], policy: BadImagePolicy, skipped: list[str]) -> None:
    for name, reason in bad:
        if policy == "error":
            # Kept in no variable: that would tie the loader into a reference cycle, and worker processes of a loader
            # that the garbage collector finds take five seconds each to stop.
            raise BadImageError(name, reason)
        if name not in skipped:
            skipped.append(name)
            logger.warning("left out: %s", BadImageError(name, reason))


def _seed_all(*key: int) -> None:
    random.seed(" ".join(map(str, key)))  # of a text, Python takes a cryptographic hash: keys alike share nothing
    np.random.seed(random.getrandbits(32))
    torch.default_generator.manual_seed(random.getrandbits(63))  # torch.manual_seed would also touch every accelerator


@contextmanager
def _random_state_kept() -> Iterator[None]:
    state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
