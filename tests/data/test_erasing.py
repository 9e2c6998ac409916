import random

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing as TimmErasing

from rexnet.data.erasing import Patch, Patches, RandomErasing


class TestDistribution:
    def test_rectangles_as_timms(self):
        """Kolmogorov-Smirnov distance of area, ratio and place of 3,000 rectangles each; 0.042 is its 1 % point."""
        ours = RandomErasing(probability=1.0, mode="const", size_px=64)
        theirs = TimmErasing(1.0, mode="const", device="cpu")
        random.seed(3)
        boxes: list[list[tuple]] = [[], []]
        for _ in range(3000):
            top, left, height, width, _ = ours.draw()
            boxes[0].append((height * width, height / width, top, left))
            rows, columns = np.nonzero(theirs(torch.ones(3, 64, 64))[0].numpy() == 0)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            boxes[1].append((height * width, height / width, rows.min(), columns.min()))
        for mine, other in zip(np.array(boxes[0]).T, np.array(boxes[1]).T, strict=True):
            points = np.concatenate([mine, other])
            shares = [np.searchsorted(np.sort(values), points, side="right") / 3000 for values in (mine, other)]
            assert np.abs(shares[0] - shares[1]).max() < 0.042

    @pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
    def test_probability(self, probability):
        random.seed(0)
        drawn = sum(
            RandomErasing(probability=probability, mode="const", size_px=32).draw() is not None for _ in range(4000)
        )
        assert abs(drawn / 4000 - probability) < 0.02

    def test_values(self):
        torch.manual_seed(0)
        pixel, rand, const = (
            [RandomErasing(probability=1.0, mode=mode, size_px=96).draw() for _ in range(50)]
            for mode in ("pixel", "rand", "const")
        )
        assert all(patch.values.shape == (3, patch.height, patch.width) for patch in pixel)
        noise = torch.cat([patch.values.flatten() for patch in pixel])
        assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
        colours = torch.stack([patch.values for patch in rand])
        assert colours.shape == (50, 3, 1, 1) and abs(colours.std() - 1) < 0.2 and len(colours.unique()) == 150
        assert all(not patch.values.any() for patch in const)

    @pytest.mark.parametrize("size_px", [1, 2, 3])
    def test_tiny_images(self, size_px):
        for _ in range(50):
            patch = RandomErasing(probability=1.0, mode="pixel", size_px=size_px).draw()
            assert patch is None or (patch.top + patch.height <= size_px and patch.left + patch.width <= size_px)


class TestPatches:
    def test_rectangles_are_drawn_on_the_right_images(self):
        patches = [
            None,
            Patch(1, 2, 3, 4, torch.arange(36.0).view(3, 3, 4)),
            Patch(0, 0, 2, 2, torch.tensor([7.0, 8, 9])[:, None, None]),
            None,
        ]
        images = torch.full((4, 3, 8, 8), -1.0)
        expected = images.clone()
        expected[1, :, 1:4, 2:6] = torch.arange(36.0).view(3, 3, 4)
        expected[2, :, :2, :2] = torch.tensor([7.0, 8, 9])[:, None, None]
        Patches.of(patches).lay_over(images)
        assert torch.equal(images, expected)

    @pytest.mark.parametrize("count", [0, 3])
    def test_none(self, count):
        images = torch.ones(count, 3, 4, 4)
        patches = Patches.of([None] * count)
        patches.lay_over(images)
        assert torch.equal(images, torch.ones(count, 3, 4, 4))
        assert patches.places.shape == (0, 7) and patches.places.dtype == torch.int64
