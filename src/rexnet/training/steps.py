"""Steps of the loop: batches, number of images and seed."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import numpy as np

from rexnet.training.config import LoopConfig
from rexnet.training.distributed import World


class Batches(Protocol):
    """Training data of the loop, such as `rexnet.data.loaders.TrainBatches`."""

    images_per_batch: int
    """Images in a full batch of this process, fewer than --batch-size if the data has fewer."""
    num_images: int
    """Images per epoch over all processes."""

    def __len__(self) -> int:
        """Batches per epoch, the same on every process."""
        ...

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch from batch `start_step` on, the same at every call. A batch has `indices`, one
        per image."""
        ...


def total_batch(batches: Batches, config: LoopConfig, world: World) -> int:
    """Return the number of images in a full step over all processes."""
    one = batches.images_per_batch * world.size
    return min(config.run.accumulate * one, max(one, batches.num_images))


def group_batches(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the batches of each step: `size` batches, and in the last step the rest."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of one step's dropout and drop path, different for every step and process."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
