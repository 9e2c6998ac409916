"""Batches of images with boxes, for training and evaluating detectors."""

from dataclasses import dataclass
from typing import NamedTuple, Unpack, final

import numpy as np
import torch
from PIL import Image

from rexnet.data.batch_reading import ORDER, BatchSource, Read
from rexnet.data.batches import LoaderOptions, OrderedBatches, ShuffledBatches, TrainLoaderOptions
from rexnet.data.boxes.coco import CocoImages
from rexnet.data.boxes.transforms import DetectionTransform, PackedSamples, Sample
from rexnet.processes import unchanged


class DetectionBatch(NamedTuple):
    """B images float32 (3, H, W), 0 to 1, red green blue, each of its own size; for each a target with boxes float32
    (N, 4) as x0 y0 x1 y1 px, labels int64 (N,) from 1, image_id int64 () and, on request, masks uint8 (N, H, W); N may
    be 0. indices int64 (B,) into the images, on the CPU. Targets contain no crowds."""

    images: list[torch.Tensor]
    targets: list[dict[str, torch.Tensor]]
    indices: torch.Tensor


@final
class TrainDetectionBatches(ShuffledBatches[DetectionBatch]):
    """Images with boxes, changed by `transform`; see `ShuffledBatches` for the options.

    Every image is read exactly once per epoch. `group_by_aspect`: wide and tall images do not share a batch, which
    would pad both; the remainders form one mixed batch if they fit.

    Together, the ranks' batches of a step are the batch that a single process with `world_size` times the batch size
    would read. The last images of an epoch are divided as evenly as possible, so some ranks may read one fewer than
    others. If fewer images than ranks are left, they join the previous batch, which may then exceed the batch size by
    one on a rank; only in this case does a single process differ: it makes them a batch of their own.

    `masks`: targets have masks, all zero for objects without an outline; raises ValueError if no image has outlines.
    Pixels are uint8 until they are on the device.
    """

    def __init__(
        self,
        images: CocoImages,
        transform: DetectionTransform,
        *,
        masks: bool = False,
        group_by_aspect: bool = True,
        **options: Unpack[TrainLoaderOptions],
    ):
        super().__init__(BatchSource(images, _SampleReader(images, masks), transform, PackedSamples.of), **options)
        if masks and not images.has_masks:
            raise ValueError(
                "the training images have boxes but no masks, which Mask R-CNN needs; "
                "--detector faster_rcnn and ssdlite need none"
            )
        self.num_images = len(images)
        self.images_per_batch = min(self._batch_size, -(-len(images) // self._world_size))
        wide = images.width_px >= images.height_px
        self._is_wide = wide if group_by_aspect else np.ones_like(wide)
        self._num_batches = len(self._order(0))

    def __len__(self) -> int:
        return self._num_batches

    def _finish(self, read: Read, random_key: tuple[int, int, int, int]) -> DetectionBatch:
        pixels, targets = read.samples.unpack(self._device)
        return DetectionBatch(pixels, targets, read.indices)

    def _order(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng([ORDER, self._seed, epoch])
        order = generator.permutation(self.num_images)
        size, ranks = self._batch_size * self._world_size, self._world_size
        full: list[np.ndarray] = []
        rests: list[np.ndarray] = []
        for group in (order[self._is_wide[order]], order[~self._is_wide[order]]):
            count = len(group) // size * size
            full += list(group[:count].reshape(-1, size))
            rests.append(group[count:])
        sizes = [len(rest) for rest in rests]
        if sum(sizes) <= size or min(sizes) < ranks:
            rests = [np.concatenate(rests)]
        if 0 < len(rests[0]) < ranks:
            full[-1] = np.concatenate([full[-1], rests.pop(0)])
        batches = full + [rest for rest in rests if len(rest)]
        return [batches[place][self._rank :: ranks] for place in generator.permutation(len(batches))]


@final
class EvalDetectionBatches(OrderedBatches[DetectionBatch]):
    """Images with their boxes on `device`; see `OrderedBatches` for the options."""

    def __init__(self, images: CocoImages, *, device: torch.device | str = "cpu", **options: Unpack[LoaderOptions]):
        super().__init__(
            BatchSource(images, _SampleReader(images, masks=False), unchanged, PackedSamples.of), **options
        )
        self._device = device

    def _finish(self, read: Read) -> DetectionBatch:
        pixels, targets = read.samples.unpack(self._device)
        return DetectionBatch(pixels, targets, read.indices)


@dataclass(frozen=True)
class _SampleReader:
    """Reader of an image and its objects, without crowds: a crowd is not a single object to learn."""

    images: CocoImages
    masks: bool

    def __call__(self, index: int) -> Sample:
        image = self.images.load(index)
        target = self.images.target(index)
        masks = torch.from_numpy(self.images.masks(index)) if self.masks else None
        sample = Sample(
            pixels=_pixels(image),
            boxes=torch.from_numpy(target["boxes"]),
            labels=torch.from_numpy(target["labels"]),
            image_id=int(self.images.image_ids[index]),
            masks=masks,
        )
        return sample.keep(torch.from_numpy(target["iscrowd"] == 0))


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
