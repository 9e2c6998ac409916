"""Random erasing (arXiv 1708.04896): workers draw rectangles and their content as they read images, and the device
pastes them into the normalised batch."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch

from rexnet.data.config import ErasingMode

# As in the paper and timm: fraction of the area, and height-to-width ratio from this to its inverse.
_AREA = (0.02, 1 / 3)
_ASPECT = 0.3
_TRIES = 10


class Patch(NamedTuple):
    """A rectangle and its content: float32 (3, height, width), or (3, 1, 1) for one colour, after normalisation."""

    top: int
    left: int
    height: int
    width: int
    values: torch.Tensor


@final
@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """A rectangle, with `probability`, of normal noise per pixel, of one random colour, or of the mean colour
    ("const"). The distribution is that of timm's class of this name with a count of one."""

    probability: float
    mode: ErasingMode
    size_px: int

    def draw(self) -> Patch | None:
        if random.random() >= self.probability:
            return None
        for _ in range(_TRIES):
            area = random.uniform(*_AREA) * self.size_px**2
            aspect = math.exp(random.uniform(math.log(_ASPECT), -math.log(_ASPECT)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height < self.size_px and width < self.size_px:
                top, left = random.randint(0, self.size_px - height), random.randint(0, self.size_px - width)
                return Patch(top, left, height, width, self._values(height, width))
        return None

    def _values(self, height: int, width: int) -> torch.Tensor:
        if self.mode == "pixel":
            return torch.randn(3, height, width)
        return torch.randn(3, 1, 1) if self.mode == "rand" else torch.zeros(3, 1, 1)


class Patches(NamedTuple):
    """The rectangles of a batch in two tensors, so that the cost of sending them from a worker does not depend on their
    number.

    `places` int64 (P, 7): index in the batch, top, left, height, width, and height and width of the values; `values`
    float32, all of them flattened."""

    places: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(cls, patches: Sequence[Patch | None]) -> "Patches":
        """Pack one entry per image of the batch."""
        present = [(index, patch) for index, patch in enumerate(patches) if patch]
        places = [(index, *patch[:4], *patch.values.shape[1:]) for index, patch in present]
        values = [patch.values.flatten() for _, patch in present]
        return cls(torch.tensor(places).reshape(-1, 7).long(), torch.cat([torch.empty(0), *values]))

    def lay_over(self, images: torch.Tensor) -> None:
        """Overwrite the rectangles in normalised `images`, float32 (B, 3, H, W) on any device."""
        places = self.places.tolist()
        parts = self.values.to(images.device, non_blocking=True).split([3 * h * w for *_, h, w in places])
        for (index, top, left, height, width, *shape), part in zip(places, parts, strict=True):
            images[index, :, top : top + height, left : left + width] = part.view(3, *shape)
