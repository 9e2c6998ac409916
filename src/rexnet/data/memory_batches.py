"""Batches of small images that are decoded once and stay in memory, for many short trainings on the same images.

Whole batches are cropped and flipped by a single indexing operation, in a hundredth of the time that one image after
another would take. An epoch depends on (seed, epoch, step) only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rexnet.data.batch_reading import CROP, ORDER, account
from rexnet.data.decode import BadImagePolicy
from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import Batch
from rexnet.data.preprocess import Preprocess
from rexnet.errors import BadImageError
from rexnet.processes import in_parallel

_CHUNK = 500


class Pixels(NamedTuple):
    """Decoded images: uint8 (N, H, W, 3) red, green, blue; targets int64 (N,); indices int64 (N,) into their set."""

    values: Tensor
    targets: Tensor
    indices: Tensor


def decode(
    images: ImageSet, preprocess: Preprocess, *, workers: int = 0, bad_image: BadImagePolicy = "error"
) -> Pixels:
    """Decode all of `images`, cropped by the evaluation transform. Raise BadImageError for an unreadable image, or
    log and skip it with "skip"; raise ValueError if none is left.
    """
    chunks = [range(start, min(start + _CHUNK, len(images))) for start in range(0, len(images), _CHUNK)]
    task = partial(_decode_chunk, images, preprocess)
    kept: list[np.ndarray] = []
    indices: list[int] = []
    for pixels, good, bad in in_parallel(task, chunks, workers=workers, label="reading images"):
        account(bad, bad_image, [])
        kept.append(pixels)
        indices.extend(good)
    if not indices:
        raise ValueError(f"none of the {len(images):,} images can be read")
    numbers = torch.tensor(indices, dtype=torch.int64)
    return Pixels(torch.from_numpy(np.concatenate(kept)), torch.from_numpy(images.targets)[numbers], numbers)


def _decode_chunk(
    images: ImageSet, preprocess: Preprocess, chunk: range
) -> tuple[np.ndarray, list[int], list[tuple[str, str]]]:
    size_px = preprocess.image_size_px
    pixels = np.empty((len(chunk), size_px, size_px, 3), np.uint8)
    good: list[int] = []
    bad: list[tuple[str, str]] = []
    for index in chunk:
        try:
            pixels[len(good)] = preprocess.pixels(images.load(index))
            good.append(index)
        except BadImageError as error:
            bad.append((images.name(index), error.reason))
    return pixels[: len(good)], good, bad


@dataclass(frozen=True, kw_only=True)
class CropAndFlip:
    """Augmentation of a whole batch: a random square of the image padded by `padding_px` black pixels, and a horizontal
    flip with probability `flip`."""

    padding_px: int
    flip: float

    def pad(self, pixels: Tensor) -> Tensor:
        """Return uint8 (N, H, W, 3) with the border that `draw` crops from."""
        border = self.padding_px
        return torch.nn.functional.pad(pixels, (0, 0, border, border, border, border))

    def draw(self, padded: Tensor, chosen: Tensor, generator: np.random.Generator) -> Tensor:
        """Return the images `chosen` (B,), augmented, uint8 (B, H, W, 3)."""
        height, width = (side - 2 * self.padding_px for side in padded.shape[1:3])
        count = len(chosen)
        top, left = generator.integers(0, 2 * self.padding_px + 1, (2, count, 1))
        columns = np.broadcast_to(np.arange(width), (count, width))
        mirrored = generator.random((count, 1)) < self.flip
        columns = left + np.where(mirrored, columns[:, ::-1], columns)
        rows = top + np.arange(height)
        rows, columns = (torch.from_numpy(part).to(padded.device) for part in (rows, columns))
        return padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]


class MemoryTrainBatches:
    """Shuffled, augmented batches of decoded images, normalised by `preprocess`, on `device`; for
    `rexnet.training.loop.fit`.

    The batch sizes of an epoch differ by at most one and never exceed `batch_size`. Raise ValueError for fewer than two
    images.
    """

    def __init__(
        self,
        pixels: Pixels,
        preprocess: Preprocess,
        augment: CropAndFlip,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        count = len(pixels.targets)
        if count < 2:
            raise ValueError(f"there are {count} training images; allowed: two or more, because of batch normalisation")
        self._padded = augment.pad(pixels.values.to(device))
        self._targets, self._indices = pixels.targets.to(device), pixels.indices
        self.images_per_batch, self.num_images = min(batch_size, count), count
        self._augment, self._seed, self._steps = augment, seed, -(-count // batch_size)
        self._preprocess = preprocess

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from `start_step` on; the same arguments give the same batches."""
        order = np.random.default_rng([ORDER, self._seed, epoch]).permutation(len(self._targets))
        for step, part in enumerate(np.array_split(order, self._steps)[start_step:], start=start_step):
            chosen = torch.from_numpy(part)
            generator = np.random.default_rng([CROP, self._seed, epoch, step])
            on_device = chosen.to(self._padded.device)
            images = self._augment.draw(self._padded, on_device, generator)
            yield Batch(_normalise(images, self._preprocess), self._targets[on_device], self._indices[chosen])


class MemoryEvalBatches:
    """Every decoded image once, in order, normalised, on `device`; may be iterated repeatedly."""

    def __init__(self, pixels: Pixels, preprocess: Preprocess, *, batch_size: int, device: torch.device | str = "cpu"):
        self._pixels, self._targets, self._indices = pixels.values.to(device), pixels.targets.to(device), pixels.indices
        self._batch_size, self._preprocess = batch_size, preprocess

    def __len__(self) -> int:
        return -(-len(self._targets) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self._targets), self._batch_size):
            part = slice(start, start + self._batch_size)
            images = _normalise(self._pixels[part], self._preprocess)
            yield Batch(images, self._targets[part], self._indices[part])


def _normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Normalise uint8 (B, H, W, 3) to float32 (B, 3, H, W) in channels-last memory."""
    return preprocess.normalise(pixels.permute(0, 3, 1, 2).float())
