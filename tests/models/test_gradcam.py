from collections.abc import Callable

import pytest
import torch
from torch import nn

from rexnet.models.factory import create_model
from rexnet.models.gradcam import grad_cam, map_cells, map_layer
from rexnet.models.rexnet import RexNet
from tests.networks import brightness_network


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_heat_is_in_the_corner_with_the_evidence(row, column):
    model = brightness_network()
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, 40 * row : 40 * row + 24, 40 * column : 40 * column + 24] = 5.0
    heat = grad_cam(model, images, torch.tensor([0]))[0]
    corner = heat[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
    assert corner.sum() > 0.8 * heat.sum() and corner.max() == 1.0
    against = grad_cam(model, images, torch.tensor([1]))
    assert not against.any(), "nothing speaks for the other class"


@pytest.mark.parametrize("name", ["rexnet_030", "rexnet_lite_030", "rexnet_plain"])
@pytest.mark.parametrize("size_px", [16, 64])
def test_every_network_gives_maps_of_the_image_from_0_to_1(name, size_px):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5).eval()
    images = torch.randn(2, 3, size_px, size_px + 32)
    heat = grad_cam(model, images, torch.tensor([4, 0]))
    assert heat.shape == (2, size_px, size_px + 32) and heat.isfinite().all() and not heat.requires_grad
    assert heat.min() >= 0 and torch.equal(heat.amax((1, 2)), torch.ones(2))
    alone = grad_cam(model, images[1:], torch.tensor([0]))
    assert torch.allclose(alone[0], heat[1], atol=1e-3), "images do not depend on their neighbours"


def test_without_a_gradient_the_map_is_zero(tiny_model):
    model = tiny_model()
    nn.init.zeros_(model.get_classifier().weight)
    heat = grad_cam(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    assert not heat.any() and heat.isfinite().all()


def test_the_network_is_unchanged(tiny_model: Callable[..., RexNet]):
    model = tiny_model().train()
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    frozen.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, classes = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    with torch.no_grad():
        heat = grad_cam(model, images, classes)
    assert torch.equal(heat, grad_cam(tiny_model().eval(), images, classes)), "as in evaluation"
    assert model.training and not frozen.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_last_map_with_enough_cells_is_explained():
    model = create_model("rexnet_030", num_classes=2)
    last = model.num_feature_layers - 1
    assert map_layer(model, 224) == map_layer(model, 128) == last and map_cells(model, 224) == 7
    assert map_layer(model, 64) == model.feature_levels[-2].layer and map_cells(model, 64) == 4
    assert map_layer(model, 1) == model.feature_levels[0].layer and map_cells(model, 1) == 1
