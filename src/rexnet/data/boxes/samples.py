"""Pictures with boxes on their way from a worker to the device, one and in batches."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch


class Sample(NamedTuple):
    """A picture with its N objects: pixels uint8 (3, H, W) red, green, blue; boxes float32 (N, 4) as x0 y0 x1 y1 px;
    labels int64 (N,) from 1; masks uint8 (N, H, W) or None."""

    pixels: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    image_id: int
    masks: torch.Tensor | None = None

    def keep(self, kept: torch.Tensor) -> Self:
        """With the objects that bool (N,) `kept` says."""
        masks = None if self.masks is None else self.masks[kept]
        return self._replace(boxes=self.boxes[kept], labels=self.labels[kept], masks=masks)


class PackedSamples(NamedTuple):
    """A batch of samples in six tensors, however many pictures and objects: each tensor that leaves a worker holds a
    file open until it is used, and a process may open about a thousand."""

    pixels: torch.Tensor  # uint8, of all pictures, flat
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
        """Images float32 (3, H, W), 0 to 1, and targets with boxes, labels, image_id and, where there are any, masks,
        all on `device`."""
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
