import pickle

import numpy as np
import pytest
import torch

from rexnet.data.boxes.transforms import LEAST_SIDE_PX, DetectionTransform, PackedSamples, Sample
from rexnet.data.config import DetectionAugmentConfig

SSD = DetectionAugmentConfig(photometric_distortion=0.5, zoom_out=0.5, iou_crop=True)
STILL = DetectionAugmentConfig(horizontal_flip=0)


def sample(seed: int = 0, *, width: int = 80, height: int = 60, objects: int = 4) -> Sample:
    """White rectangles on black, apart from each other, with exact boxes and masks; label = position + 1."""
    random = np.random.default_rng(seed)
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(objects, height, width, dtype=torch.uint8)
    boxes = torch.zeros(objects, 4)
    for place in range(objects):
        x, y = 20 * (place % 4) + int(random.integers(1, 6)), int(random.integers(1, height - 22))
        w, h = (int(value) for value in random.integers(8, 13, 2))
        masks[place, y : y + h, x : x + w] = 1
        pixels[:, y : y + h, x : x + w] = 255
        boxes[place] = torch.tensor([x, y, x + w, y + h])
    return Sample(pixels, boxes, torch.arange(1, objects + 1), 7, masks)


def around(mask: torch.Tensor) -> list[float]:
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def assert_whole(changed: Sample) -> None:
    count, (height, width) = len(changed.labels), changed.pixels.shape[1:]
    assert changed.boxes.shape == (count, 4) and changed.masks.shape == (count, height, width)
    assert changed.pixels.dtype == changed.masks.dtype == torch.uint8 and changed.boxes.dtype == torch.float32
    assert type(changed.pixels) is type(changed.boxes) is torch.Tensor
    assert (changed.boxes[:, 2:] - changed.boxes[:, :2] >= LEAST_SIDE_PX).all()
    assert (changed.boxes >= 0).all() and (changed.boxes <= torch.tensor([width, height, width, height])).all()
    assert all(mask.any() for mask in changed.masks)


class TestGeometry:
    @pytest.mark.seconds
    def test_boxes_and_masks_stay_on_their_objects(self):
        """Through everything SSD does: what a box surrounds is what its mask covers, and nothing else is white."""
        transform, kept = DetectionTransform(DetectionAugmentConfig(zoom_out=0.5, iou_crop=True)), 0
        torch.manual_seed(0)
        for seed in range(150):
            before = sample(seed)
            after = transform(before)
            assert_whole(after)
            for place, label in enumerate(after.labels.tolist()):
                assert (after.pixels[0][after.masks[place].bool()] == 255).all()
                assert around(after.masks[place]) == after.boxes[place].tolist()
                assert label in before.labels
            kept += len(after.labels)
        assert 200 < kept < 590, "crops must lose some objects"

    def test_flip(self):
        before = sample()
        after = DetectionTransform(DetectionAugmentConfig(horizontal_flip=1))(before)
        assert torch.equal(after.pixels, before.pixels.flip(2)) and torch.equal(after.masks, before.masks.flip(2))
        assert torch.equal(
            after.boxes,
            torch.stack([80 - before.boxes[:, 2], before.boxes[:, 1], 80 - before.boxes[:, 0], before.boxes[:, 3]], 1),
        )
        assert torch.equal(after.labels, before.labels)

    def test_nothing_to_do_changes_nothing(self):
        before, transform = sample(), DetectionTransform(STILL)
        assert all(
            torch.equal(a, b) for a, b in zip(before, transform(before), strict=True) if isinstance(a, torch.Tensor)
        )
        assert not transform.resizes

    def test_an_object_thinner_than_a_pixel_is_removed_with_its_label_and_mask(self):
        before = sample()
        boxes = before.boxes.clone()
        boxes[1, 2] = boxes[1, 0] + 1.5
        halved = DetectionTransform(DetectionAugmentConfig(horizontal_flip=0, short_side_px=(30,)))
        after = halved(before._replace(boxes=boxes))
        assert after.labels.tolist() == [1, 3, 4] and torch.equal(after.masks, halved(before).masks[[0, 2, 3]])

    def test_an_object_without_mask_or_width_stays(self):
        before = sample()
        before.masks[2] = 0
        before.boxes[1, 2] = before.boxes[1, 0] + 0.5
        assert DetectionTransform(STILL)(before).labels.tolist() == [1, 2, 3, 4]
        smaller = DetectionTransform(DetectionAugmentConfig(horizontal_flip=0, short_side_px=(30,)))
        assert smaller(before).labels.tolist() == [1, 3, 4], "half of half a pixel"

    @pytest.mark.parametrize("augment", [SSD, DetectionAugmentConfig(short_side_px=(20, 40))])
    @pytest.mark.parametrize("size", [(80, 60), (3, 5), (1, 1), (60, 2)])
    def test_no_objects_and_tiny_images(self, augment, size):
        transform = DetectionTransform(augment)
        for seed in range(30):
            torch.manual_seed(seed)
            after = transform(
                sample(objects=0, width=size[0], height=size[1])
                if min(size) > 30
                else Sample(
                    torch.zeros(3, size[1], size[0], dtype=torch.uint8),
                    torch.tensor([[0.0, 0, *size]]),
                    torch.tensor([1]),
                    1,
                )
            )
            assert len(after.boxes) == len(after.labels) and after.pixels.shape[0] == 3


class TestResizing:
    @pytest.mark.parametrize(("width", "height"), [(80, 60), (61, 95), (300, 40), (40, 300), (64, 64)])
    def test_as_the_detector_resizes(self, width, height):
        """What the transform makes is what torchvision's detector makes of the same image, size and pixels."""
        from torchvision.models.detection.transform import GeneralizedRCNNTransform

        pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8))
        before = Sample(pixels, torch.tensor([[3.0, 4.0, 33.0, 24.0]]), torch.tensor([1]), 1)
        augment = DetectionAugmentConfig(horizontal_flip=0, short_side_px=(90,), long_side_px=200)
        transform = DetectionTransform(augment)
        after = transform(before)
        detector = GeneralizedRCNNTransform(90, 200, [0.0] * 3, [1.0] * 3).eval()
        theirs, targets = detector([pixels.float() / 255], [{"boxes": before.boxes}])
        assert transform.resizes and tuple(after.pixels.shape[1:]) == theirs.image_sizes[0]
        expected = theirs.tensors[0, :, : after.pixels.shape[1], : after.pixels.shape[2]]
        torch.testing.assert_close(after.pixels.float() / 255, expected, atol=1.01 / 255, rtol=0)
        torch.testing.assert_close(after.boxes, targets[0]["boxes"])
        skipping = GeneralizedRCNNTransform(90, 200, [0.0] * 3, [1.0] * 3, _skip_resize=True).train()
        assert skipping([torch.rand(3, height, width)])[0].image_sizes == [(height, width)]

    def test_each_size_is_drawn(self):
        torch.manual_seed(0)
        transform = DetectionTransform(DetectionAugmentConfig(short_side_px=(30, 60, 90)))
        shorter = {min(transform(sample()).pixels.shape[1:]) for _ in range(40)}
        assert shorter == {30, 60, 90}

    def test_masks_follow(self):
        after = DetectionTransform(DetectionAugmentConfig(horizontal_flip=0, short_side_px=(120,)))(sample())
        assert_whole(after)
        for place in range(4):
            assert around(after.masks[place]) == after.boxes[place].tolist(), "twice the size, exactly"


class TestConfig:
    @pytest.mark.parametrize(
        "fields",
        [
            {"horizontal_flip": 1.5},
            {"zoom_out": -0.1},
            {"photometric_distortion": 2},
            {"short_side_px": (0,)},
            {"short_side_px": (900,), "long_side_px": 800},
            {"long_side_px": 800},
        ],
    )
    def test_refused(self, fields):
        name = "long_side_px" if "long_side_px" in fields else next(iter(fields))
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is .*allowed:"):
            DetectionAugmentConfig(**fields)

    def test_repeatable_and_survives_pickling(self):
        transform = DetectionTransform(SSD)
        again = pickle.loads(pickle.dumps(transform))
        results = []
        for each in (transform, again):
            torch.manual_seed(5)
            results.append([each(sample(seed)) for seed in range(5)])
        for one, other in zip(*results, strict=True):
            assert torch.equal(one.pixels, other.pixels) and torch.equal(one.boxes, other.boxes)


def test_packed_and_unpacked():
    samples = [sample(0), sample(1, objects=0), sample(2, width=90, objects=2)]
    images, targets = PackedSamples.of(samples).unpack("cpu")
    for one, image, target in zip(samples, images, targets, strict=True):
        assert image.dtype == torch.float32 and torch.equal(image, one.pixels.float() / 255)
        assert torch.equal(target["boxes"], one.boxes) and torch.equal(target["labels"], one.labels)
        assert torch.equal(target["masks"], one.masks) and target["image_id"].item() == 7
        assert target["labels"].dtype == torch.int64 and target["boxes"].shape[1:] == (4,)
    plain = [each._replace(masks=None) for each in samples]
    assert all("masks" not in target for target in PackedSamples.of(plain).unpack("cpu")[1])
