import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

import rexnet
from rexnet.models.cost import measure_cost
from rexnet.study.principles.graph import NONE, UNSEEN, find_bottlenecks
from rexnet.study.principles.tracing import image_channels, trace


class WrittenOut(nn.Module):
    """Activations as modules, functions, methods and formulas, and a convolution without a module."""

    def __init__(self):
        super().__init__()
        self.module, self.function, self.formula, self.shifted, self.last = (
            nn.Conv2d(1, 4, 1),
            *(nn.Conv2d(4, 4, 1) for _ in range(4)),
        )
        self.act, self.kernel = nn.ELU(), nn.Parameter(torch.ones(4, 4, 1, 1))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = functional.relu(self.function(self.act(self.module(x))))
        x = self.formula(x)
        x = x * x.sigmoid()
        x = self.shifted(x)
        x = x * functional.relu6(x + 3) / 6
        x = functional.conv2d(x, self.kernel).clamp(0, 6)
        return self.head(self.last(x).mean((2, 3)))


def test_activations_are_found_in_every_notation():
    found = trace(WrittenOut(), 8)
    after = {operation.module: found.activation_after(operation) for operation, _ in found.layers()}
    words = ["elu", "relu", "silu", UNSEEN, "relu6", NONE, NONE]
    assert after == dict(
        zip(["module", "function", "formula", "shifted", "kernel", "last", "head"], words, strict=True)
    )
    assert [operation.module for operation, _ in found.layers() if operation.pooled] == ["head"]


def test_activations_are_found_behind_gates():
    found = trace(rexnet.create_model("rexnet_050"), 64)
    after = {
        operation.module: found.activation_after(operation) for operation, layer in found.layers() if layer.depthwise
    }
    assert set(after.values()) == {"relu6"} and len(after) == 16


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "rexnet_100"])
def test_layers_have_the_macs_that_cost_counts(name):
    model = rexnet.create_model(name) if name.startswith("rexnet") else timm.create_model(name)
    assert trace(model).macs() == measure_cost(model).macs


def test_the_model_is_unchanged_and_its_input_channels_are_detected():
    model = nn.Sequential(nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    assert trace(model, 8).macs() == 36 * 5 * 4 * 9
    assert model.training and model[1].num_batches_tracked == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert image_channels(model) == 5


class ByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return functional.silu(self.layer(x)) if x.sum() > 0 else x


def test_a_path_that_depends_on_values_is_followed_on_values():
    found = trace(ByValue(), 8)
    assert [(each.module, found.activation_after(each)) for each, _ in found.layers()] == [("layer", "silu")]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Linear(3, 4), "the network has no Conv2d"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(7, 2)),
            r"does not take an image of shape \(1, 3, 8, 8\)",
        ),
    ],
)
def test_networks_not_for_images_are_refused(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        trace(model, 8)


@pytest.mark.parametrize(
    ("make", "blocks", "ratios"),
    [
        (lambda: timm.create_model("mobilenetv1_100"), 13, [0.5, 0.5, 1, 0.5, 1, 0.5, 1, 1, 1, 1, 1, 0.5, 1]),
        (lambda: timm.create_model("convnext_atto"), 12, [1] * 12),
        (lambda: torchvision.models.mnasnet1_0(), 17, None),
        (lambda: torchvision.models.resnet18(), 0, []),
        (lambda: timm.create_model("resnext26ts"), 0, []),
    ],
)
def test_blocks_of_known_networks(make, blocks, ratios):
    found = list(find_bottlenecks(trace(make(), 64)))
    assert len(found) == blocks
    assert ratios is None or [block.ratio for block in found] == ratios


def test_blocks_of_a_rexnet_are_its_specs():
    model = rexnet.create_model("rexnet_100")
    found = [(block.in_channels, block.out_channels) for block in find_bottlenecks(trace(model, 64))]
    assert found == [(spec.in_channels, spec.out_channels) for spec in model.config.blocks]


def test_bottlenecks_of_mobilenetv4_are_found():
    # Depthwise, expansion, depthwise, projection is one block and no widening one and a narrowing one.
    found = list(find_bottlenecks(trace(timm.create_model("mobilenetv4_conv_small"), 64)))
    assert all(block.ratio >= 0.3 for block in found) and len(found) == 12
