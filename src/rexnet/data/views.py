"""Augmented pictures on their way from a worker to the device, one and in batches."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from rexnet.data.erasing import Patch, Patches


class View(NamedTuple):
    """An augmented picture before normalisation: uint8 (3, H, W) red, green, blue, and what erases a part of it."""

    pixels: torch.Tensor
    patch: Patch | None


class Views(NamedTuple):
    """A batch of `View`: uint8 (B, H, W, 3), a quarter of the normalised batch that `TrainTransform.finish` makes."""

    pixels: torch.Tensor
    patches: Patches

    @classmethod
    def of(cls, views: Sequence[View]) -> "Views":
        pixels = torch.stack([view.pixels.permute(1, 2, 0) for view in views])
        return cls(pixels, Patches.of([view.patch for view in views]))
