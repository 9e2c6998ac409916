"""Settings of images and their augmentation, importable without the libraries that perform it, for `--help`."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from rexnet.data.decode import BadImagePolicy
from rexnet.data.preprocess import Interpolation, Preprocess, require_image_size
from rexnet.errors import require, require_at_least
from rexnet.options import Argument

CropInterpolation = Literal["random", "bilinear", "bicubic"]
ErasingMode = Literal["pixel", "rand", "const"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to training images; a setting without effect is rejected."""

    crop_scale: Annotated[tuple[float, float], Argument(aliases=("--scale",))] = (0.08, 1.0)
    """Smallest and largest fraction of the image's area that a random crop keeps."""
    crop_aspect: Annotated[tuple[float, float], Argument(aliases=("--ratio",))] = (3 / 4, 4 / 3)
    """Smallest and largest width-to-height ratio of a random crop."""
    crop_interpolation: CropInterpolation = "random"
    """Interpolation of random crops, and of auto_augment's rotations and shears; random: bilinear or bicubic."""
    crop_padding_px: int = 0
    """For small images: pad by this many black pixels and crop at full scale, instead of the random resized crop."""
    horizontal_flip: Annotated[float, Argument(aliases=("--hflip",))] = 0.5
    """Probability of a horizontal flip; 0 if direction matters, as in digits."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation; without effect with auto_augment."""
    auto_augment: Annotated[str | None, Argument(aliases=("--aa",))] = None
    """Policy by timm's name, such as rand-m9-mstd0.5 (RandAugment), augmix-m3-w3, original or v0."""
    random_erasing: Annotated[float, Argument(aliases=("--reprob",))] = 0.0
    """Probability of overwriting a random rectangle."""
    erasing_mode: Annotated[ErasingMode, Argument(aliases=("--remode",))] = "pixel"
    """Content of erased rectangles: noise per pixel, one random colour, or the mean colour."""
    mixup: float = 0.0
    """Alpha of mixup (blend pairs of images), 0 for none."""
    cutmix: float = 0.0
    """Alpha of cutmix (paste a rectangle of one image into another), 0 for none."""
    mixup_prob: float = 1.0
    """Fraction of batches to mix."""
    cutmix_share: Annotated[float, Argument(aliases=("--mixup-switch-prob",))] = 0.5
    """Fraction of mixed batches that use cutmix, if both are on."""
    label_smoothing: Annotated[float, Argument(aliases=("--smoothing",))] = 0.0
    """Label smoothing: fraction of the target spread over all classes."""

    def __post_init__(self):
        low, high = self.crop_scale
        require(0 < low <= high <= 1, "crop_scale", self.crop_scale, "two ascending numbers above 0 and at most 1")
        low, high = self.crop_aspect
        require(0 < low <= high, "crop_aspect", self.crop_aspect, "two ascending numbers above 0")
        for name in ("horizontal_flip", "random_erasing", "mixup_prob", "cutmix_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        require_at_least(self, 0, "crop_padding_px", "color_jitter", "mixup", "cutmix")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "from 0 to below 1")
        for name, kind in (("crop_interpolation", CropInterpolation), ("erasing_mode", ErasingMode)):
            require(getattr(self, name) in get_args(kind), name, getattr(self, name), ", ".join(get_args(kind)))
        self._refuse_idle_settings()

    def _refuse_idle_settings(self):
        mixes = self.mixup > 0 or self.cutmix > 0
        for name, used, remedy in (
            ("crop_scale", not self.crop_padding_px, "with --crop-padding-px 0"),
            ("crop_aspect", not self.crop_padding_px, "with --crop-padding-px 0"),
            ("crop_interpolation", not self.crop_padding_px or bool(self.auto_augment), "with --crop-padding-px 0"),
            ("color_jitter", not self.auto_augment or "3a" in self.auto_augment, "without --auto-augment"),
            ("erasing_mode", self.random_erasing > 0, "with --random-erasing"),
            ("mixup_prob", mixes, "with --mixup or --cutmix"),
            ("cutmix_share", self.mixup > 0 and self.cutmix > 0, "with both --mixup and --cutmix"),
        ):
            default = type(self).__dataclass_fields__[name].default
            require(
                used or getattr(self, name) == default,
                name,
                getattr(self, name),
                f"{default}, or another value {remedy}",
            )


@dataclass(frozen=True, kw_only=True)
class DetectionAugmentConfig:
    """Random changes to training images with boxes; a setting without effect is rejected."""

    horizontal_flip: float = 0.5
    """Probability of a horizontal flip; 0 if direction matters, as in text."""
    short_side_px: tuple[int, ...] | None = None
    """Sizes of the shorter side, such as 640 672 704 736 768 800; each image gets one at random; None: the detector
    resizes every image to its own size."""
    long_side_px: int = 1333
    """Maximum of the longer side, with short_side_px: an image that would exceed it gets a smaller short side."""
    photometric_distortion: float = 0.0
    """Probability of each of SSD's changes to brightness, contrast, saturation, hue and channel order; SSD: 0.5."""
    zoom_out: float = 0.0
    """Probability of placing the image on a gray canvas up to four times as wide and high; SSD: 0.5."""
    iou_crop: bool = False
    """Crop a random part that contains an object's centre and enough of its area, as SSD does."""

    def __post_init__(self):
        for name in ("horizontal_flip", "photometric_distortion", "zoom_out"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        sides = self.short_side_px or ()
        require(all(side >= 1 for side in sides), "short_side_px", sides, "integers from 1")
        fits = not sides or self.long_side_px >= max(sides)
        require(fits, "long_side_px", self.long_side_px, f"at least the short side, {max(sides, default=0)}")
        default = type(self).__dataclass_fields__["long_side_px"].default
        allowed = f"{default}, or another value with --short-side-px"
        require(bool(sides) or self.long_side_px == default, "long_side_px", self.long_side_px, allowed)


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """Selection, splitting and resizing of images."""

    image_size: Annotated[int, Argument(aliases=("--img-size",))] = Preprocess.image_size_px
    """Side in pixels of the square input of the network."""
    crop_ratio: Annotated[float, Argument(aliases=("--crop-pct",))] = Preprocess.crop_ratio
    """Side of the centre crop in evaluation, as a fraction of the resized image's short side."""
    interpolation: Interpolation = Preprocess.interpolation
    """Interpolation of resizing, in training and evaluation."""
    val_fraction: float | None = None
    """Fraction of every class in the validation split, if the data has no splits; None: a fifth."""
    shots: int | None = None
    """Train on only this many images of each class, drawn with --seed; the validation split stays the same."""
    balance: Literal["none", "loss", "sampler"] = "none"
    """Balance the classes in training: by the weight of their images in the loss, or by how often they are drawn."""
    bad_image: BadImagePolicy = "error"

    missing_class: Literal["error", "skip"] = "error"
    """Action for a class without validation images: stop with an error, or train on it without validation."""

    def __post_init__(self) -> None:
        holds = self.val_fraction is None or 0.0 < self.val_fraction < 1.0
        require(holds, "val_fraction", self.val_fraction, "between 0 and 1, or None")
        require_at_least(self, 1, "shots")
        require_image_size(self)
        require(0 < self.crop_ratio <= 1, "crop_ratio", self.crop_ratio, "above 0 and at most 1")

    def preprocess(self) -> Preprocess:
        """Evaluation transform, with ImageNet's mean and standard deviation, as in every published file."""
        return Preprocess(image_size_px=self.image_size, crop_ratio=self.crop_ratio, interpolation=self.interpolation)
