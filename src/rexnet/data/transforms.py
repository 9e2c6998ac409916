"""Augmentation for training, from images to normalised batches. timm and torchvision are imported on first use: reading
a configuration or `--help` must not wait seconds for them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from rexnet.data.config import AugmentConfig
from rexnet.data.crops import RandomPaddedCrop, RandomResizedCrop
from rexnet.data.erasing import Patch, Patches, RandomErasing
from rexnet.data.image_set import Source
from rexnet.data.policies import ArrayOrImage, as_array, on_arrays
from rexnet.data.preprocess import Preprocess
from rexnet.errors import OptionError


class View(NamedTuple):
    """An augmented image before normalisation: uint8 (H, W, 3) red, green, blue, and the patch that erases a part of
    it."""

    pixels: np.ndarray
    patch: Patch | None


class Views(NamedTuple):
    """A batch of `View`: uint8 (B, H, W, 3), a quarter of the normalised batch that `TrainTransform.finish` makes."""

    pixels: torch.Tensor
    patches: Patches

    @classmethod
    def of(cls, views: Sequence[View]) -> "Views":
        pixels = np.stack([view.pixels for view in views])
        return cls(torch.from_numpy(pixels), Patches.of([view.patch for view in views]))

    def floats_on(self, device: torch.device | str) -> torch.Tensor:
        """Return the pixels on `device`, float32 (B, 3, H, W)."""
        pixels = self.pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
        if pixels.device.type != "cpu":
            return torch.empty(pixels.shape, device=device).copy_(pixels)
        # numpy requests huge pages; allocating small ones, as torch does, takes as long as the normalisation.
        return torch.from_numpy(np.empty(pixels.shape, np.float32)).copy_(pixels)


@dataclass(frozen=True)
class TrainTransform:
    """Augmentation, then the normalisation of `preprocess`. Random draws come from the global generators of random,
    numpy and torch, which the loaders seed per image. Raise ValueError for an unknown auto_augment policy.

    Crops of JPEG files are decoded by `rexnet.data.jpeg`, everything else by `open_image`."""

    preprocess: Preprocess
    augment: AugmentConfig

    def __post_init__(self):
        _ = self._colour_steps  # reject an unknown policy here, and import before workers are forked

    def __call__(self, source: Source) -> torch.Tensor:
        """Convert an image of any size to float32 (3, image_size_px, image_size_px), channels red, green, blue. Raise
        BadImageError."""
        return self.finish(Views.of([self.draw(source)]))[0]

    def draw(self, source: Source) -> View:
        """Make all random draws for one image. Raise BadImageError."""
        pixels = self._crop(source)
        if random.random() < self.augment.horizontal_flip:
            pixels = pixels.flip(2)
        image: ArrayOrImage = pixels.permute(1, 2, 0).numpy()
        for step in self._colour_steps:
            image = step(image)
        return View(as_array(image), self._erasing.draw())

    def finish(self, views: Views, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return float32 (B, 3, H, W) on `device`, normalised there and then erased: the arithmetic of timm's
        prefetcher."""
        images = self.preprocess.normalise(views.floats_on(device))
        views.patches.lay_over(images)
        return images

    @cached_property
    def _crop(self) -> Callable[[Source], torch.Tensor]:
        size_px, augment = self.preprocess.image_size_px, self.augment
        if augment.crop_padding_px:
            return RandomPaddedCrop(
                size_px=size_px, padding_px=augment.crop_padding_px, interpolation=self.preprocess.interpolation
            )
        return RandomResizedCrop(
            size_px=size_px,
            scale=augment.crop_scale,
            aspect=augment.crop_aspect,
            interpolation=augment.crop_interpolation,
        )

    @cached_property
    def _erasing(self) -> RandomErasing:
        augment = self.augment
        return RandomErasing(
            probability=augment.random_erasing, mode=augment.erasing_mode, size_px=self.preprocess.image_size_px
        )

    @cached_property
    def _colour_steps(self) -> list[Callable[[ArrayOrImage], ArrayOrImage]]:
        from timm.data.transforms_factory import transforms_imagenet_train

        augment = self.augment
        color_jitter: Any = augment.color_jitter or None  # a jitter of 0.0 would still add a step
        try:
            stages: Any = transforms_imagenet_train(
                self.preprocess.image_size_px,
                color_jitter=color_jitter,
                auto_augment=augment.auto_augment,
                interpolation=augment.crop_interpolation,
                mean=self.preprocess.mean,
                separate=True,
            )
        except (AssertionError, KeyError, ValueError) as error:
            reason = f" ({error})" if str(error) else ""
            raise OptionError(
                f"--auto-augment is {augment.auto_augment!r}, which timm does not know{reason}; allowed: names "
                "such as rand-m9-mstd0.5, augmix-m3-w3, original and v0"
            ) from error
        return [on_arrays(step) for step in stages[1].transforms]


@dataclass(frozen=True)
class BatchMixer:
    """Mixup and cutmix over a batch, drawn from numpy's global generator; label smoothing is part of the soft targets
    it returns, so the loss must not smooth again."""

    augment: AugmentConfig
    num_classes: int

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix images (B, 3, H, W), in place, and class indices (B,) into images (B', 3, H, W) and soft targets
        (B', num_classes), each row summing to 1. Pairs are mixed, so an odd batch loses its last image: B' is even.
        """
        even = len(images) // 2 * 2
        return self._mixup(images[:even], targets[:even])

    @cached_property
    def _mixup(self):
        from timm.data.mixup import Mixup

        return Mixup(
            mixup_alpha=self.augment.mixup,
            cutmix_alpha=self.augment.cutmix,
            prob=self.augment.mixup_prob,
            switch_prob=self.augment.cutmix_share,
            label_smoothing=self.augment.label_smoothing,
            num_classes=self.num_classes,
        )


def batch_mixer(augment: AugmentConfig, num_classes: int) -> BatchMixer | None:
    """Return the mixer; None if both mixup and cutmix are off: the loss then smooths the labels."""
    return BatchMixer(augment, num_classes) if augment.mixup > 0 or augment.cutmix > 0 else None
