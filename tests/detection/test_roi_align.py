"""Regions are pooled as torchvision pools them: its kernel is the oracle, forward and backward."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from rexnet.detection import create_detector
from rexnet.detection.roi_align import FastRoIAlign

SIZE = (480, 640)


def draw_maps() -> dict[str, Tensor]:
    maps = {str(number): torch.randn(2, 6, 120 >> number, 160 >> number) for number in range(4)}
    for number in (1, 3):
        maps[str(number)] = maps[str(number)].contiguous(memory_format=torch.channels_last)
    return {**{name: features.requires_grad_() for name, features in maps.items()}, "pool": torch.randn(2, 6, 8, 10)}


def draw_boxes(count: int) -> Tensor:
    """From less than a pixel to the whole image, some of them partly or wholly outside."""
    corner = torch.rand(count, 2) * torch.tensor([700.0, 520.0]) - 30
    return torch.cat([corner, corner + torch.rand(count, 2) ** 4 * torch.tensor([640.0, 480.0])], dim=1)


@pytest.mark.parametrize("side", [7, 14])
def test_values_and_gradients_are_torchvisions(side):
    torch.manual_seed(side)
    maps = draw_maps()
    corners = torch.tensor(
        [[0.0, 0, 0, 0], [0, 0, 640, 480], [639, 479, 640, 480], [10, 10, 10, 300], [900, 900, 990, 990]]
    )
    boxes = [torch.cat([draw_boxes(300), corners]), draw_boxes(200)]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=side, sampling_ratio=2)
    expected, found = theirs(maps, boxes, [SIZE] * 2), FastRoIAlign(theirs)(maps, boxes, [SIZE] * 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    leaves = [maps[str(number)] for number in range(4)]
    gradient = torch.randn_like(expected)
    pairs = [torch.autograd.grad(pooled, leaves, gradient) for pooled in (found, expected)]
    assert all(part.abs().max() > 1 for part in pairs[1])
    for mine, wanted in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (3, 0)])
def test_images_without_regions(counts):
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    maps, boxes = draw_maps(), [draw_boxes(count) for count in counts]
    found, expected = FastRoIAlign(pooler)(maps, boxes, [SIZE] * 2), pooler(maps, boxes, [SIZE] * 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_under_autocast_it_computes_in_float32_as_torchvision_does():
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    maps = {name: features.detach().bfloat16() for name, features in draw_maps().items()}
    boxes = [draw_boxes(5), draw_boxes(5)]
    with torch.autocast("cpu", torch.bfloat16):
        found = FastRoIAlign(pooler)(maps, boxes, [SIZE] * 2)
    wide = {name: features.float() for name, features in maps.items()}
    torch.testing.assert_close(found, pooler(wide, boxes, [SIZE] * 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "poolers"), [("faster_rcnn", 1), ("mask_rcnn", 2), ("ssdlite", 0)])
def test_the_pyramids_use_it(kind, poolers):
    detector = create_detector(kind, backbone="rexnet_030", num_classes=2)
    assert sum(isinstance(module, FastRoIAlign) for module in detector.modules()) == poolers
