"""Random changes to training pictures and, with them, to their boxes and masks, by torchvision's transforms v2.

A picture is resized once, in one of two places. Without `short_side_px` the transform resizes nothing, and the detector
brings each picture to its own size, in training as in evaluation; zoom_out and iou_crop still vary the scale of
objects, because they only add or cut away margins. With `short_side_px` the transform resizes, and the detector must
not: `DetectionTransform.resizes` says so, and torchvision's detectors then leave training pictures as they are when
built with `_skip_resize=True`. They interpolate alike, so both places give the same pixels up to one of 255 levels.

torchvision's transforms are imported on first use: reading a configuration or `--help` must not wait for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from rexnet.data.boxes.samples import Sample
from rexnet.data.config import DetectionAugmentConfig
from rexnet.models.published import IMAGENET_MEAN

LEAST_SIDE_PX = 1.0
"""Objects that a change leaves narrower or lower than this are removed."""
_LEAST_PICTURE_PX = 8  # torchvision's crop divides by the size of its crops, which of smaller pictures can be 0
_SSD_ZOOM = (1.0, 4.0)


@dataclass(frozen=True)
class DetectionTransform:
    """A sample to a changed one. Random draws come from torch's global generator, which the loaders seed per picture.

    An object goes when its box becomes narrower than LEAST_SIDE_PX, when a crop leaves its centre outside, or when
    nothing is left of a mask that it had; an image may lose all of them and then trains as a negative.
    """

    augment: DetectionAugmentConfig

    def __post_init__(self):
        _ = self._steps  # imports what workers need before they are forked

    @property
    def resizes(self) -> bool:
        """Whether the pictures have their final size, so that the detector must not resize them in training."""
        return bool(self.augment.short_side_px)

    def __call__(self, sample: Sample) -> Sample:
        from torchvision import tv_tensors

        size = tuple(sample.pixels.shape[1:])
        boxes: Any = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        parts: dict[str, Any] = {"pixels": tv_tensors.Image(sample.pixels), "boxes": boxes}
        if sample.masks is not None:
            parts["masks"] = tv_tensors.Mask(sample.masks)
        for step in self._steps:
            parts = step(parts)
        plain = {name: part.as_subclass(torch.Tensor).contiguous() for name, part in parts.items()}
        changed = sample._replace(**plain)
        return changed.keep(_has_area(sample, changed) & ~_lost_mask(sample, changed))

    @cached_property
    def _steps(self) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        augment, steps = self.augment, []
        if augment.photometric_distortion:
            steps.append(v2.RandomPhotometricDistort(p=augment.photometric_distortion))
        if augment.zoom_out:
            gray: Any = {tv_tensors.Image: tuple(round(255 * value) for value in IMAGENET_MEAN), tv_tensors.Mask: 0}
            steps.append(v2.RandomZoomOut(fill=gray, side_range=_SSD_ZOOM, p=augment.zoom_out))
        if augment.iou_crop:
            steps.append(_CropWithObjects(v2.RandomIoUCrop()))
        if augment.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip(p=augment.horizontal_flip))
        if augment.short_side_px:
            # The detector's own resizing has no antialiasing, and what it learns must look like what it is tested on.
            steps.append(
                v2.RandomShortestSize(list(augment.short_side_px), max_size=augment.long_side_px, antialias=False)
            )
        return steps


@dataclass(frozen=True)
class _CropWithObjects:
    """torchvision's crop looks for a part around some object for ever so long where there is none to find."""

    crop: Callable[[dict[str, Any]], dict[str, Any]]

    def __call__(self, parts: dict[str, Any]) -> dict[str, Any]:
        if not len(parts["boxes"]) or min(parts["pixels"].shape[1:]) < _LEAST_PICTURE_PX:
            return parts
        return self.crop(parts)


def _has_area(before: Sample, after: Sample) -> torch.Tensor:
    """bool (N,): the objects whose box is not narrower than LEAST_SIDE_PX, or not narrower than it came."""
    sides, came = (sample.boxes[:, 2:] - sample.boxes[:, :2] for sample in (after, before))
    return (sides >= came.clamp(max=LEAST_SIDE_PX)).all(dim=1)


def _lost_mask(before: Sample, after: Sample) -> torch.Tensor:
    """bool (N,): the objects that had a mask and have none left."""
    if before.masks is None or after.masks is None:
        return torch.zeros(len(before.labels), dtype=torch.bool)
    had, has = (masks.flatten(1).any(dim=1).bool() for masks in (before.masks, after.masks))
    return had & ~has
