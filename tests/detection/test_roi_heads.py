"""Regions are pooled as torchvision pools them: its kernel is the oracle, forward and backward."""

import copy

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from rexnet.detection import create_detector
from rexnet.detection.roi_heads import FastRoIAlign

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
def test_images_without_proposals(counts):
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
def test_the_pyramid_detectors_use_it(kind, poolers):
    detector = create_detector(kind, backbone="rexnet_030", num_classes=2)
    assert sum(isinstance(module, FastRoIAlign) for module in detector.modules()) == poolers


def losses_and_gradients(model, images, targets):
    torch.manual_seed(3)  # for the anchors and proposals that are drawn
    model.zero_grad()
    losses = model(images, copy.deepcopy(targets))
    sum(losses.values()).backward()
    return losses, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture
def model(tiny_detector):
    model = tiny_detector("mask_rcnn").eval()
    for module in (model, *(model.get_submodule(name) for name in ("rpn", "roi_heads", "transform"))):
        module.training = True  # all but the batch norms, which would make one image depend on the others
    return model


def test_objects_without_a_mask_train_only_the_box_head(model, detection_batch):
    images, whole = detection_batch(1)
    partly = copy.deepcopy(whole)
    partly[0]["masks"][1] = 0
    found, gradients = losses_and_gradients(model, images, partly)
    expected, all_gradients = losses_and_gradients(model, images, whole)
    for name in ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"):
        assert torch.equal(found[name], expected[name]), name
    last = "roi_heads.mask_predictor.mask_fcn_logits.weight"
    # Classes of the two objects: 1 has a mask, 3 has none now.
    assert gradients[last][1].any() and not gradients[last][3].any() and all_gradients[last][3].any()


def test_the_mask_loss_is_zero_without_any_mask(model, detection_batch):
    images, targets = detection_batch(2)
    for target in targets:
        target["masks"].zero_()
    found, gradients = losses_and_gradients(model, images, targets)
    assert found["loss_mask"] == 0 and found["loss_box_reg"] > 0
    assert not any(gradient.any() for name, gradient in gradients.items() if ".mask_" in name)


def test_with_every_mask_the_losses_are_torchvisions(model, detection_batch):
    images, targets = detection_batch(2)
    found, gradients = losses_and_gradients(model, images, targets)
    vars(model.roi_heads)["forward"] = vars(model.roi_heads)["forward"].args[0]
    expected, their_gradients = losses_and_gradients(model, images, targets)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(torch.equal(gradients[name], their_gradients[name]) for name in their_gradients)
