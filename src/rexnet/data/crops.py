"""Random crops for training: from any source of an image to uint8 pixels at the network's input size."""

import math
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from rexnet.data.config import CropInterpolation
from rexnet.data.decode import open_image
from rexnet.data.image_set import Source
from rexnet.data.jpeg import Box, Jpeg, open_jpeg
from rexnet.data.preprocess import limit_aspect, middle

_TRIES = 10


@final
@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A random part of the image, resized: `scale` bounds its fraction of the area, `aspect` its width-to-height ratio,
    as in Inception's training and timm's RandomResizedCropAndInterpolation. `interpolation` "random" is bilinear or
    bicubic with equal probability."""

    size_px: int
    scale: tuple[float, float]
    aspect: tuple[float, float]
    interpolation: CropInterpolation

    def __call__(self, source: Source) -> torch.Tensor:
        """Return uint8 (3, size_px, size_px): red, green, blue, in channels-last memory. Raise BadImageError."""
        image = _open(source)
        box = self.draw(image.size)
        pixels = image.crop(box, self.size_px) if isinstance(image, Jpeg) else np.asarray(image.crop(box.corners))
        return resize(pixels, self.size_px, self._draw_interpolation())

    def draw(self, size: tuple[int, int]) -> Box:
        """Return the crop of an image of (width, height) pixels; after ten failed attempts, its centre."""
        left, top, width, height = middle(size)
        narrowest, widest = self.aspect
        for _ in range(_TRIES):
            area = random.uniform(*self.scale) * width * height
            aspect = math.exp(random.uniform(math.log(narrowest), math.log(widest)))
            part = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < part[0] <= width and 0 < part[1] <= height:
                return Box(left + random.randint(0, width - part[0]), top + random.randint(0, height - part[1]), *part)
        aspect = min(max(width / height, narrowest), widest)
        part = min(width, round(height * aspect)), min(height, round(width / aspect))
        return Box(left + (width - part[0]) // 2, top + (height - part[1]) // 2, *part)

    def _draw_interpolation(self) -> str:
        return random.choice(("bilinear", "bicubic")) if self.interpolation == "random" else self.interpolation


@final
@dataclass(frozen=True, kw_only=True)
class RandomPaddedCrop:
    """A crop for small images: resize the short side to `size_px`, pad with black pixels, cut out a random square."""

    size_px: int
    padding_px: int
    interpolation: str

    def __call__(self, source: Source) -> torch.Tensor:
        """Return uint8 (3, size_px, size_px), as `RandomResizedCrop` does."""
        image = source if isinstance(source, Image.Image) else open_image(source)
        return torch.from_numpy(np.array(self._steps(limit_aspect(image)))).permute(2, 0, 1)

    @cached_property
    def _steps(self) -> Any:
        from torchvision import transforms

        mode = transforms.InterpolationMode(self.interpolation)
        return transforms.Compose(
            [transforms.Resize(self.size_px, mode), transforms.RandomCrop(self.size_px, padding=self.padding_px)]
        )


def resize(pixels: np.ndarray, size_px: int, interpolation: str) -> torch.Tensor:
    """Resize uint8 (H, W, 3) to uint8 (3, size_px, size_px) in channels-last memory. `interpolation`: bilinear or
    bicubic, with antialiasing. Computes as Pillow does, within the tolerance of `tests/data/test_crops.py`, but with
    vector instructions."""
    # torch is fast only in this layout, and does not accept negative strides.
    batch = torch.from_numpy(np.array(pixels, order="C"))[None].permute(0, 3, 1, 2)
    return functional.interpolate(batch, (size_px, size_px), mode=interpolation, antialias=True)[0]


def _open(source: Source) -> Image.Image | Jpeg:
    if isinstance(source, Image.Image):
        return source
    return open_jpeg(source) or open_image(source)
