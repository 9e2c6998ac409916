"""Batches for training and evaluation.

An epoch depends on (seed, epoch) only: the order of the images, and for every image the state of the random generators
for its augmentation. The number of worker processes therefore does not change it.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple, Unpack, final

import numpy as np
import torch
from PIL import Image

from rexnet.data.batch_reading import MIX, ORDER, BatchSource, Read, keep_random_state, seed_all
from rexnet.data.batches import LoaderOptions, OrderedBatches, ShuffledBatches, TrainLoaderOptions
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


@final
class TrainBatches(ShuffledBatches[Batch]):
    """Images of a set, augmented by `transform`; see `ShuffledBatches` for the options.

    Together, the ranks' batches of a step are the batch of a single process with `world_size` times the batch size; if
    the images do not divide evenly, an epoch skips up to world_size - 1 images at its end. A last batch of one image is
    merged into the one before, because batch normalisation cannot train on it.

    `balanced`: every class is drawn equally often, so images may repeat or be skipped; see `balanced_draws`.

    Workers send uint8, a quarter of the batch's size; normalisation, erasing and mixing happen on the device.

    `num_images`: images per epoch, over all ranks. `images_per_batch`: images in a full batch of this rank.
    """

    def __init__(
        self,
        image_set: ImageSet,
        transform: TrainTransform,
        *,
        mixer: BatchMixer | None = None,
        balanced: bool = False,
        **options: Unpack[TrainLoaderOptions],
    ):
        super().__init__(BatchSource(image_set, image_set.source, transform.draw, Views.of), least=2, **options)
        self._per_rank = len(image_set) // self._world_size
        self.num_images = self._per_rank * self._world_size
        self.images_per_batch = min(self._batch_size, self._per_rank)
        self._merge_last = self._per_rank % self._batch_size == 1 and self._per_rank > self._batch_size
        if self._merge_last:
            logger.info("the last batch of one image is merged into the one before")
        self._balanced_targets = image_set.targets if balanced else None
        self._targets = image_set.targets
        self._transform, self._mixer = transform, mixer

    def __len__(self) -> int:
        return -(-self._per_rank // self._batch_size) - self._merge_last

    def _finish(self, read: Read, random_key: tuple[int, int, int, int]) -> Batch:
        images = self._transform.finish(read.samples, self._device)
        targets = torch.from_numpy(self._targets[read.indices.numpy()]).to(self._device, non_blocking=True)
        if self._mixer:
            with keep_random_state():
                seed_all(MIX, *random_key)
                images, targets = self._mixer(images, targets)
        return Batch(images, targets, read.indices[: len(images)])

    def positions(self, epoch: int) -> list[np.ndarray]:
        """Return the image positions of each batch of an epoch, assuming that all images can be read."""
        return [indices % self._num_indices for indices in self._order(epoch)]

    def _order(self, epoch: int) -> list[np.ndarray]:
        generator, targets = np.random.default_rng([ORDER, self._seed, epoch]), self._balanced_targets
        order = generator.permutation(self._num_indices) if targets is None else balanced_draws(targets, generator)
        of_rank = order[: self.num_images][self._rank :: self._world_size]
        cuts = np.arange(1, len(self)) * self._batch_size
        return np.split(of_rank, cuts)


@final
class EvalBatches(OrderedBatches[Batch]):
    """Images of a set, preprocessed by `preprocess`; see `OrderedBatches` for the options."""

    def __init__(
        self, image_set: ImageSet, preprocess: Callable[[Image.Image], torch.Tensor], **options: Unpack[LoaderOptions]
    ):
        if options.get("workers"):
            preprocess(Image.new("RGB", (1, 1)))  # import what it needs here, once, instead of in every worker
        super().__init__(BatchSource(image_set, image_set.load, preprocess, torch.stack), **options)
        self._targets = image_set.targets

    def _finish(self, read: Read) -> Batch:
        return Batch(read.samples, torch.from_numpy(self._targets[read.indices.numpy()]), read.indices)
