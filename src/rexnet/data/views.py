"""Augmented pictures on their way from a worker to the device, one and in batches."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from rexnet.data.erasing import Patch, Patches


class View(NamedTuple):
    """An augmented picture before normalisation: uint8 (H, W, 3) red, green, blue, and what erases a part of it."""

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
        """The pixels on `device`, float32 (B, 3, H, W)."""
        pixels = self.pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
        if pixels.device.type != "cpu":
            return torch.empty(pixels.shape, device=device).copy_(pixels)
        # numpy asks the system for large pages. To be given small ones, as torch is, takes as long as normalising.
        return torch.from_numpy(np.empty(pixels.shape, np.float32)).copy_(pixels)
