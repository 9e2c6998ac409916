"""Random changes to training images, their boxes and masks, made with torchvision's transforms v2.

An image is resized once, in one of two places. Without `short_side_px`, the transform resizes nothing, and the detector
brings each image to its own size, in training as in evaluation; zoom_out and iou_crop still vary the scale of objects,
because they only add or remove margins. With `short_side_px`, the transform resizes, and the detector must not:
`DetectionTransform.resizes` is then true, and torchvision's detectors, built with `_skip_resize=True`, leave training
images as they are. Both interpolate in the same way, so their pixels differ by at most one of 255 levels.

torchvision's transforms are imported on first use: reading a configuration or `--help` must not wait for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch

from rexnet.data.config import DetectionAugmentConfig
from rexnet.models.published import IMAGENET_MEAN

LEAST_SIDE_PX = 1.0
"""Smallest width and height of a box; objects whose boxes become smaller are removed."""
_LEAST_IMAGE_PX = 8  # torchvision's crop divides by the size of its crops, which can be 0 for smaller images
_SSD_ZOOM = (1.0, 4.0)


class Sample(NamedTuple):
    """An image with its N objects: pixels uint8 (3, H, W) red, green, blue; boxes float32 (N, 4) as x0 y0 x1 y1 px;
    labels int64 (N,) from 1; masks uint8 (N, H, W) or None."""

    pixels: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    image_id: int
    masks: torch.Tensor | None = None

    def keep(self, kept: torch.Tensor) -> Self:
        """Return the sample with only the objects for which `kept`, bool (N,), is true."""
        masks = None if self.masks is None else self.masks[kept]
        return self._replace(boxes=self.boxes[kept], labels=self.labels[kept], masks=masks)


@dataclass(frozen=True)
class DetectionTransform:
    """Random changes to a sample. Random draws come from torch's global generator, which the loaders seed per image.

    An object is removed when its box becomes narrower than LEAST_SIDE_PX, when its centre is outside the crop, or when
    its mask becomes empty; an image may lose all objects and is then trained on as a negative.
    """

    augment: DetectionAugmentConfig

    def __post_init__(self):
        _ = self._steps  # import what workers need before they are forked

    @property
    def resizes(self) -> bool:
        """Return whether the images have their final size, so that the detector must not resize them in training."""
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
            # The detector's own resizing has no antialiasing, and training images must look like test images.
            steps.append(
                v2.RandomShortestSize(list(augment.short_side_px), max_size=augment.long_side_px, antialias=False)
            )
        return steps


@dataclass(frozen=True)
class _CropWithObjects:
    """torchvision's crop, skipped for images without objects, on which it would loop forever."""

    crop: Callable[[dict[str, Any]], dict[str, Any]]

    def __call__(self, parts: dict[str, Any]) -> dict[str, Any]:
        if not len(parts["boxes"]) or min(parts["pixels"].shape[1:]) < _LEAST_IMAGE_PX:
            return parts
        return self.crop(parts)


def _has_area(before: Sample, after: Sample) -> torch.Tensor:
    """Return bool (N,): whether each side of a box is at least LEAST_SIDE_PX, or at least as long as before."""
    sides, came = (sample.boxes[:, 2:] - sample.boxes[:, :2] for sample in (after, before))
    return (sides >= came.clamp(max=LEAST_SIDE_PX)).all(dim=1)


def _lost_mask(before: Sample, after: Sample) -> torch.Tensor:
    """Return bool (N,): whether an object's mask has become empty."""
    if before.masks is None or after.masks is None:
        return torch.zeros(len(before.labels), dtype=torch.bool)
    had, has = (masks.flatten(1).any(dim=1).bool() for masks in (before.masks, after.masks))
    return had & ~has


class PackedSamples(NamedTuple):
    """A batch of samples in six tensors, regardless of the number of images and objects: each tensor from a worker
    keeps a file open until it is used, and a process may only open about a thousand."""

    pixels: torch.Tensor  # uint8, of all images, flat
    sizes: torch.Tensor  # int64 (B, 3): height, width, objects
    boxes: torch.Tensor
    labels: torch.Tensor
    image_ids: torch.Tensor
    masks: torch.Tensor | None  # uint8, flat

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Self:
        masks = [sample.masks.flatten() for sample in samples if sample.masks is not None]
        return cls(
            pixels=torch.cat([sample.pixels.flatten() for sample in samples]),
            sizes=torch.tensor([[*sample.pixels.shape[1:], len(sample.labels)] for sample in samples]),
            boxes=torch.cat([sample.boxes for sample in samples]),
            labels=torch.cat([sample.labels for sample in samples]),
            image_ids=torch.tensor([sample.image_id for sample in samples]),
            masks=torch.cat(masks) if masks else None,
        )

    def unpack(self, device: torch.device | str) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
        """Return images float32 (3, H, W), 0 to 1, and targets with boxes, labels, image_id and, if there are any,
        masks, all on `device`."""
        sizes = self.sizes.tolist()
        counts = [objects for _, _, objects in sizes]
        pixels, boxes, labels, image_ids = (
            values.to(device, non_blocking=True) for values in (self.pixels, self.boxes, self.labels, self.image_ids)
        )
        images = [
            values.view(3, height, width).float().div_(255)
            for values, (height, width, _) in zip(
                pixels.split([3 * height * width for height, width, _ in sizes]), sizes, strict=True
            )
        ]
        targets = [
            {"boxes": mine, "labels": names, "image_id": image_id}
            for mine, names, image_id in zip(boxes.split(counts), labels.split(counts), image_ids, strict=True)
        ]
        if self.masks is not None:
            flat = self.masks.to(device, non_blocking=True).split([h * w * objects for h, w, objects in sizes])
            for target, values, (height, width, objects) in zip(targets, flat, sizes, strict=True):
                target["masks"] = values.view(objects, height, width)
        return images, targets
