"""From RGB pixels to tensors: the evaluation contract a checkpoint carries, and the augmentation of training.

timm and torchvision are imported on first use: reading a configuration or `--help` must not wait seconds for them.
"""

import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, final, get_args

import numpy as np
import torch
from PIL import Image

from rexnet.data.crops import CropInterpolation, RandomPaddedCrop, RandomResizedCrop, limit_aspect
from rexnet.data.erasing import ErasingMode, RandomErasing
from rexnet.data.image_set import Source
from rexnet.data.policies import Picture, as_array, on_arrays
from rexnet.data.views import View, Views
from rexnet.errors import OptionError, require
from rexnet.models.published import IMAGENET_MEAN, IMAGENET_STD

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_ERASING_MODES = ("pixel", "rand", "const")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What happens to every picture that is evaluated: short side to `image_size_px / crop_ratio`, centre crop,
    normalisation. Stored in each checkpoint; validate, predict and export use the stored one.

    Bit for bit timm's evaluation transform, for pictures up to 100 times as long as wide. Raises ValueError for
    settings outside the stated ranges.
    """

    image_size_px: int = 224
    """Side of the square the network sees, in pixels."""
    crop_ratio: float = 0.875
    """Side of the centre crop as a share of the resized short side, above 0 and at most 1."""
    interpolation: Interpolation = "bicubic"
    """How pixels are interpolated when a picture is resized."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean per channel (red, green, blue; 0..1) that is subtracted."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation per channel (red, green, blue; 0..1) that is divided by."""

    def __post_init__(self):
        _check(isinstance(self.image_size_px, int) and self.image_size_px >= 1, self, "image_size_px", "at least 1")
        _check(0 < self.crop_ratio <= 1, self, "crop_ratio", "above 0 and at most 1")
        _check(self.interpolation in _INTERPOLATIONS, self, "interpolation", "one of " + ", ".join(_INTERPOLATIONS))
        _check(len(self.mean) == 3 and all(map(math.isfinite, self.mean)), self, "mean", "three finite numbers")
        _check(len(self.std) == 3 and all(math.isfinite(s) and s > 0 for s in self.std), self, "std", "three above 0")

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """RGB picture of any size -> float32 (3, image_size_px, image_size_px), channels red, green, blue."""
        return self._to_tensor(self._square(limit_aspect(image)))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The same before normalisation: uint8 (image_size_px, image_size_px, 3)."""
        return np.asarray(self._square(limit_aspect(image)))

    @property
    def short_side_px(self) -> int:
        """That pictures are resized to before the crop."""
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
    def _to_tensor(self) -> Callable[[Image.Image], torch.Tensor]:
        return _ToTensor(self.mean, self.std)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (B, 3, H, W) from 0 to 255 on any device, in place."""
        mean, std = (
            torch.tensor([255 * value for value in values], device=images.device).view(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return images.sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocess":
        """Raises ValueError unless `fields` holds exactly the fields of this class with allowed values."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            got, expected = ", ".join(sorted(fields)) or "none", ", ".join(sorted(names))
            raise ValueError(f"preprocessing must hold the fields {expected}, but holds {got}")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to training pictures; a setting without effect is refused."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the picture's area that a random crop keeps."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width-to-height ratio of a random crop."""
    crop_interpolation: CropInterpolation = "random"
    """How pixels are interpolated in a random crop and in what auto_augment turns and shears; random: either."""
    crop_padding_px: int = 0
    """For small pictures: pad by so many black pixels and crop at full scale, instead of the random resized crop."""
    horizontal_flip: float = 0.5
    """Probability of mirroring left and right; 0 where direction matters, as in digits."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation; without effect beside auto_augment."""
    auto_augment: str | None = None
    """timm's name of a policy, such as rand-m9-mstd0.5 (RandAugment), augmix-m3-w3, original or v0."""
    random_erasing: float = 0.0
    """Probability of overwriting a random rectangle."""
    erasing_mode: ErasingMode = "pixel"
    """What erased rectangles hold: noise per pixel, one random colour, or the mean colour."""
    mixup: float = 0.0
    """Alpha of mixup (blend pairs of pictures), 0 for none."""
    cutmix: float = 0.0
    """Alpha of cutmix (paste a rectangle of one picture into another), 0 for none."""
    mixup_prob: float = 1.0
    """Share of batches to mix."""
    cutmix_share: float = 0.5
    """Share of mixed batches that use cutmix, where both are on."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""

    def __post_init__(self):
        low, high = self.crop_scale
        require(0 < low <= high <= 1, "crop_scale", self.crop_scale, "two ascending numbers above 0 and at most 1")
        low, high = self.crop_aspect
        require(0 < low <= high, "crop_aspect", self.crop_aspect, "two ascending numbers above 0")
        for name in ("horizontal_flip", "random_erasing", "mixup_prob", "cutmix_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        for name in ("crop_padding_px", "color_jitter", "mixup", "cutmix"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "from 0 to below 1")
        interpolations = get_args(CropInterpolation)
        require(
            self.crop_interpolation in interpolations,
            "crop_interpolation",
            self.crop_interpolation,
            ", ".join(interpolations),
        )
        require(self.erasing_mode in _ERASING_MODES, "erasing_mode", self.erasing_mode, ", ".join(_ERASING_MODES))
        self._refuse_idle_settings()

    def _refuse_idle_settings(self):
        mixes = self.mixup > 0 or self.cutmix > 0
        for name, used, remedy in (
            ("crop_scale", not self.crop_padding_px, "with --crop-padding-px 0"),
            ("crop_aspect", not self.crop_padding_px, "with --crop-padding-px 0"),
            ("crop_interpolation", not self.crop_padding_px or bool(self.auto_augment), "with --crop-padding-px 0"),
            ("color_jitter", not self.auto_augment or "3a" in self.auto_augment, "without --auto-augment"),
            ("erasing_mode", self.random_erasing > 0, "beside --random-erasing"),
            ("mixup_prob", mixes, "beside --mixup or --cutmix"),
            ("cutmix_share", self.mixup > 0 and self.cutmix > 0, "beside both --mixup and --cutmix"),
        ):
            default = type(self).__dataclass_fields__[name].default
            require(used or getattr(self, name) == default, name, getattr(self, name), f"{default}, or others {remedy}")


@dataclass(frozen=True)
class TrainTransform:
    """Augmentation, then the normalisation of `preprocess`. Random draws come from the global generators of random,
    numpy and torch, which the loaders seed per picture. Raises ValueError for an unknown auto_augment policy.

    Crops of JPEG files are decoded by `rexnet.data.jpeg`, everything else by `open_image`."""

    preprocess: Preprocess
    augment: AugmentConfig

    def __post_init__(self):
        _ = self._colour_steps  # refuses an unknown policy here, and imports what workers need before they are forked

    def __call__(self, source: Source) -> torch.Tensor:
        """A picture of any size -> float32 (3, image_size_px, image_size_px), channels red, green, blue.
        Raises BadImageError."""
        return self.finish(Views.of([self.draw(source)]))[0]

    def draw(self, source: Source) -> View:
        """Everything random, for one picture. Raises BadImageError."""
        pixels = self._crop(source)
        if random.random() < self.augment.horizontal_flip:
            pixels = pixels.flip(2)
        picture: Picture = pixels.permute(1, 2, 0).numpy()
        for step in self._colour_steps:
            picture = step(picture)
        return View(as_array(picture), self._erasing.draw())

    def finish(self, views: Views, device: torch.device | str = "cpu") -> torch.Tensor:
        """float32 (B, 3, H, W) on `device`, normalised there and then erased: the arithmetic of timm's prefetcher."""
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
    def _colour_steps(self) -> list[Callable[[Picture], Picture]]:
        from timm.data.transforms_factory import transforms_imagenet_train

        augment = self.augment
        color_jitter: Any = augment.color_jitter or None  # a jitter of 0.0 would still be a step
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
        """Images (B, 3, H, W), changed in place, and class indices (B,) -> images (B', 3, H, W) and soft targets
        (B', num_classes), each row summing to 1. Pairs are mixed, so an odd batch loses its last picture: B' is even.
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
    """None where neither mixup nor cutmix is on; smoothing labels is then the loss's part."""
    return BatchMixer(augment, num_classes) if augment.mixup > 0 or augment.cutmix > 0 else None


@final
class _ToTensor:
    """RGB pixels -> normalised float32 (3, H, W), through a table of the 256 values of each channel: the bits of
    torchvision's ToTensor and Normalize in a third of their time on small pictures."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        values = torch.arange(256, dtype=torch.float32).div(255).expand(3, 256)
        self._table = values.sub(torch.tensor(mean)[:, None]).div(torch.tensor(std)[:, None]).numpy()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image)
        normalised = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
        for channel, table in enumerate(self._table):
            np.take(table, pixels[:, :, channel], out=normalised[channel], mode="clip")  # "raise" would copy `out`
        return torch.from_numpy(normalised)


def _check(allowed: bool, config: object, name: str, rule: str) -> None:
    if not allowed:
        raise ValueError(f"{name} is {getattr(config, name)!r}, but must be {rule}")
