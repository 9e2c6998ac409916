"""The evaluation transform stored in a checkpoint. torch and torchvision are imported on first use, to keep `--help`
fast."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, final, get_args

import numpy as np
from PIL import Image

from rexnet.data.jpeg import Box
from rexnet.errors import require_at_least
from rexnet.models.published import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    import torch

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]

MIN_IMAGE_PX = 8
"""Minimum side that a command accepts; a stored transform may have a smaller one."""


def require_image_size(settings: Any, name: str = "image_size") -> None:
    """Raise OptionError unless this field of a dataclass is a valid image side."""
    require_at_least(settings, MIN_IMAGE_PX, name, reason="below that, nearly every layer sees only padding")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Transform of every evaluated image: short side to `image_size_px / crop_ratio`, centre crop, normalisation.
    Stored in each checkpoint; validate, predict and export use the stored one.

    Bit-identical to timm's evaluation transform for aspect ratios up to 100. Raise ValueError for settings outside the
    stated ranges.
    """

    image_size_px: int = 224
    """Side of the network's square input, in pixels."""
    crop_ratio: float = 0.875
    """Side of the centre crop as a fraction of the resized short side, above 0 and at most 1."""
    interpolation: Interpolation = "bicubic"
    """Interpolation of pixels when an image is resized."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean per channel (red, green, blue; 0..1) to subtract."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation per channel (red, green, blue; 0..1) to divide by."""

    def __post_init__(self):
        _check(isinstance(self.image_size_px, int) and self.image_size_px >= 1, self, "image_size_px", "at least 1")
        _check(0 < self.crop_ratio <= 1, self, "crop_ratio", "above 0 and at most 1")
        allowed = get_args(Interpolation)
        _check(self.interpolation in allowed, self, "interpolation", "one of " + ", ".join(allowed))
        _check(len(self.mean) == 3 and all(map(math.isfinite, self.mean)), self, "mean", "three finite numbers")
        _check(len(self.std) == 3 and all(math.isfinite(s) and s > 0 for s in self.std), self, "std", "three above 0")

    def __call__(self, image: Image.Image) -> "torch.Tensor":
        """Convert an RGB image of any size to float32 (3, image_size_px, image_size_px), channels red, green, blue."""
        return self._to_tensor(self._square(limit_aspect(image)))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the pixels before normalisation: uint8 (image_size_px, image_size_px, 3)."""
        return np.asarray(self._square(limit_aspect(image)))

    @property
    def short_side_px(self) -> int:
        """Short side to which images are resized before the crop."""
        return math.floor(self.image_size_px / self.crop_ratio)

    @cached_property
    def _square(self) -> Callable[[Image.Image], Image.Image]:
        from torchvision import transforms

        steps: Any = [
            transforms.Resize(self.short_side_px, transforms.InterpolationMode(self.interpolation)),
            transforms.CenterCrop(self.image_size_px),
        ]
        pipeline: Any = transforms.Compose(steps)
        return pipeline

    @cached_property
    def _to_tensor(self) -> "Callable[[Image.Image], torch.Tensor]":
        return _ToTensor(self.mean, self.std)

    def normalise(self, images: "torch.Tensor") -> "torch.Tensor":
        """Normalise float32 (B, 3, H, W) from 0 to 255 on any device, in place."""
        import torch

        mean, std = (
            torch.tensor([255 * value for value in values], device=images.device).view(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return images.sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_dict` reads them back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocess":
        """Read the result of `to_dict`. Raise ValueError unless `fields` has exactly the fields of this class with
        allowed values."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            got, expected = ", ".join(sorted(fields)) or "none", ", ".join(sorted(names))
            raise ValueError(f"preprocessing must have the fields {expected}, but has {got}")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**values)


@final
class _ToTensor:
    """RGB pixels -> normalised float32 (3, H, W), through a lookup table of 256 values per channel: bit-identical to
    torchvision's ToTensor and Normalize in a third of their time on small images."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        import torch

        values = torch.arange(256, dtype=torch.float32).div(255).expand(3, 256)
        self._table = values.sub(torch.tensor(mean)[:, None]).div(torch.tensor(std)[:, None]).numpy()

    def __call__(self, image: Image.Image) -> "torch.Tensor":
        from torch import from_numpy

        pixels = np.asarray(image)
        normalised = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
        for channel, table in enumerate(self._table):
            np.take(table, pixels[:, :, channel], out=normalised[channel], mode="clip")  # "raise" would copy `out`
        return from_numpy(normalised)


def _check(allowed: bool, config: object, name: str, rule: str) -> None:
    if not allowed:
        raise ValueError(f"{name} is {getattr(config, name)!r}, but the allowed values are {rule}")


# An image longer than this many times its short side is first cropped to its middle: resizing 1 x 60,000,000 pixels
# to a short side of 256 would otherwise need terabytes.
_MAX_ASPECT = 100


def middle(size: tuple[int, int]) -> Box:
    """Return the middle part, with an aspect ratio of at most 100, of an image of (width, height) pixels."""
    width, height = size
    keep_px = _MAX_ASPECT * min(width, height)
    left, top = max(0, (width - keep_px) // 2), max(0, (height - keep_px) // 2)
    return Box(left, top, width - 2 * left, height - 2 * top)


def limit_aspect(image: Image.Image) -> Image.Image:
    box = middle(image.size)
    return image if (box.width, box.height) == image.size else image.crop(box.corners)
