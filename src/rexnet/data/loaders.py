"""Batches for training and evaluation.

An epoch follows from (seed, epoch) alone: the order of the images, and for every image the state of the random
generators that its augmentation draws from, so the number of worker processes changes nothing.
"""

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple, Unpack, final

import numpy as np
import torch
from PIL import Image

from rexnet.data.batch_reading import (
    MIX,
    ORDER,
    BatchReader,
    LoaderOptions,
    OrderedBatches,
    Plan,
    Read,
    Wanted,
    account,
    keep_random_state,
    make_loader,
    seed_all,
)
from rexnet.data.decode import BadImagePolicy
from rexnet.data.image_set import ImageSet
from rexnet.data.splits import balanced_draws
from rexnet.data.transforms import BatchMixer, TrainTransform, Views

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Images float32 (B, 3, H, W); targets int64 (B,), or float32 (B, K) after mixing; indices int64 (B,) into the
    image set, for names, on the CPU."""

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor


class TrainBatches:
    """Shuffled, augmented batches of rank `rank` of `world_size`; `len()` is the steps per epoch, equal on all ranks.

    Together the ranks' batches of one step are those of one process with `world_size` times the batch size; when the
    images do not divide evenly, an epoch skips up to world_size - 1 of its last ones. A last batch of one image is
    merged into the one before, because batch normalisation cannot train on it.

    With bad_image="skip", images that cannot be read are skipped, logged and listed by name in `skipped`; a batch with
    fewer than two is filled up with the images that follow in the set. With "error" the first raises BadImageError.

    `balanced`: every class is drawn equally often, its images repeatedly or not at all as needed; see `balanced_draws`.

    Batches are on `device`, indices aside. Workers send uint8, four times smaller than the batch; normalising, erasing
    and mixing happen on the device.

    `num_images`: images per epoch, over all ranks. `images_per_step`: those of a full batch of this rank.

    Raises ValueError for a batch size below two, for fewer than two images per rank, and for a negative seed.
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
            raise ValueError(f"batch size is {batch_size}; allowed: 2 or more, because of batch normalisation")
        if seed < 0:
            raise ValueError(f"seed is {seed}; allowed: 0 or more")
        self._per_rank = len(image_set) // world_size
        if self._per_rank < 2:
            raise ValueError(
                f"there are {len(image_set)} training images for {world_size} processes; allowed: two or more for each"
            )
        self.num_images = self._per_rank * world_size
        self.images_per_step = min(batch_size, self._per_rank)
        self.skipped: list[str] = []
        self._merge_last = self._per_rank % batch_size == 1 and self._per_rank > batch_size
        if self._merge_last:
            logger.info("the last batch of one image is merged into the one before")
        self._num_indices, self._batch_size = len(image_set), batch_size
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._balanced_targets = image_set.targets if balanced else None
        self._bad_image: BadImagePolicy = bad_image
        self._targets = image_set.targets
        self._transform, self._mixer, self._device = transform, mixer, device
        self._plan = Plan([])
        reader = BatchReader(image_set, image_set.source, transform.draw, stack=Views.of, bad_image=bad_image)
        self._loader = make_loader(
            reader, self._plan, workers=workers, pin_memory=pin_memory, start_method=start_method
        )

    def __len__(self) -> int:
        return -(-self._per_rank // self._batch_size) - self._merge_last

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from step `start_step` on; one epoch at a time. The same arguments give the
        same batches, whatever was read before, and the caller's random generators are left as they are."""
        self._plan.wanted = self._order(epoch)[start_step:]
        for step, read in enumerate(self._loader, start=start_step):
            account(read.bad, self._bad_image, self.skipped)
            if read.samples is None:
                raise ValueError(f"no two of {self._num_indices:,} training images can be read")
            yield self._finish(read, (self._seed, epoch, step, self._rank))

    def _finish(self, read: Read, random_key: tuple[int, int, int, int]) -> Batch:
        images = self._transform.finish(read.samples, self._device)
        targets = torch.from_numpy(self._targets[read.indices.numpy()]).to(self._device, non_blocking=True)
        if self._mixer:
            with keep_random_state():
                seed_all(MIX, *random_key)
                images, targets = self._mixer(images, targets)
        return Batch(images, targets, read.indices[: len(images)])

    def positions(self, epoch: int) -> list[np.ndarray]:
        """Return the positions in the set of the images of each batch of an epoch, as if all could be read."""
        return [wanted.indices % self._num_indices for wanted in self._order(epoch)]

    def _order(self, epoch: int) -> list[Wanted]:
        generator, targets = np.random.default_rng([ORDER, self._seed, epoch]), self._balanced_targets
        order = generator.permutation(self._num_indices) if targets is None else balanced_draws(targets, generator)
        of_rank = order[: self.num_images][self._rank :: self._world_size]
        cuts = np.arange(1, len(self)) * self._batch_size
        return [Wanted(indices, (self._seed, epoch), at_least=2) for indices in np.split(of_rank, cuts)]


@final
class EvalBatches(OrderedBatches[Batch]):
    """Images of a set as `preprocess` makes them, see `OrderedBatches`, whose options these are."""

    def __init__(
        self,
        image_set: ImageSet,
        preprocess: Callable[[Image.Image], torch.Tensor],
        **options: Unpack[LoaderOptions],
    ):
        if options.get("workers"):
            preprocess(Image.new("RGB", (1, 1)))  # imports what it needs here, once, instead of in every worker
        super().__init__(image_set, image_set.load, preprocess, stack=torch.stack, **options)
        self._targets = image_set.targets

    def _finish(self, read: Read) -> Batch:
        return Batch(read.samples, torch.from_numpy(self._targets[read.indices.numpy()]), read.indices)
