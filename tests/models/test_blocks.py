import pytest
import torch
from torch import nn

from rexnet.models import blocks
from rexnet.models.blocks import (
    ACTIVATIONS,
    BlockConv2d,
    BlockSpec,
    DropPath,
    LinearBottleneck,
    NormConfig,
    PooledConv2d,
    mix_positions,
)
from rexnet.models.factory import create_model


def test_shortcut_adds_to_the_first_channels_only():
    spec = BlockSpec(in_channels=4, expanded_channels=24, out_channels=6, shortcut=True)
    block = LinearBottleneck(spec, norm=NormConfig()).eval()
    images = torch.randn(2, 4, 7, 7)
    difference = block(images) - block.out(images)
    assert torch.allclose(difference[:, :4], images, atol=1e-6) and not difference[:, 4:].any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_any_activation_anywhere_trains(activation):
    spec = BlockSpec(
        in_channels=4,
        expanded_channels=24,
        out_channels=6,
        se_channels=2,
        shortcut=True,
        expand_activation=activation,
        depthwise_activation=activation,
        out_activation=activation,
    )
    for training in (True, False):
        block = LinearBottleneck(spec, norm=NormConfig()).train(training)
        block(torch.randn(3, 4, 7, 7)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in block.parameters())


def test_a_block_does_not_touch_its_input():
    spec = BlockSpec(in_channels=4, expanded_channels=24, out_channels=6, se_channels=2, shortcut=True)
    block = LinearBottleneck(spec, norm=NormConfig()).eval()
    images = torch.randn(2, 4, 7, 7)
    before = images.clone()
    with torch.no_grad():
        block(images)
    assert torch.equal(images, before)


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 2, 2, 2))
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert per_sample[:, 0].unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert out.mean().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drop.eval()(torch.ones(3, 1, 1, 1)), torch.ones(3, 1, 1, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 0}, "out_channels is 0; allowed: 1 or more"),
        ({"kernel_size": 4}, "kernel_size is 4; allowed: odd numbers"),
        ({"se_channels": -1}, "se_channels is -1"),
        ({"shortcut": True, "stride": 2}, "shortcut needs stride 1"),
        ({"shortcut": True, "out_channels": 3}, "shortcut needs stride 1 and in_channels <= out_channels"),
        ({"depthwise_activation": "relu7"}, "activation is 'relu7'; allowed:"),
    ],
)
def test_a_wrong_block_is_refused_in_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        BlockSpec(**{"in_channels": 4, "expanded_channels": 24, "out_channels": 6, **changes})


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 4), (3, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_mixing_positions_is_the_convolution(kernel_size, size, memory_format):
    torch.manual_seed(0)
    x = torch.randn(3, 8, *size, dtype=torch.double).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(8, 1, kernel_size, kernel_size, dtype=torch.double, requires_grad=True)
    expected = nn.functional.conv2d(x, weight, padding=kernel_size // 2, groups=8)
    found = mix_positions(x, weight)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad(out, (x, weight), gradient) for out in (found, expected)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "mixes"), [(2, 1, 1, 1), (4, 1, 1, 0), (2, 2, 1, 0), (2, 1, 2, 0)]
)
def test_only_small_maps_in_training_are_mixed(monkeypatch, size, stride, dilation, mixes):
    calls = []
    monkeypatch.setattr(blocks, "mix_positions", lambda x, weight: calls.append(x) or mix_positions(x, weight))
    convolution = BlockConv2d(4, 4, 3, stride=stride, dilation=dilation, groups=4)
    x = torch.randn(2, 4, size, size)
    trained = convolution(x)
    assert len(calls) == mixes
    torch.testing.assert_close(convolution.eval()(x), trained)
    assert len(calls) == mixes


def test_under_autocast_the_type_is_that_of_the_convolution():
    convolution = BlockConv2d(4, 4, 3, groups=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(torch.randn(2, 4, 2, 2).bfloat16()).dtype is torch.bfloat16


def test_a_network_in_training_can_be_traced_and_compiled_for_any_size():
    model = create_model("rexnet_030", num_classes=3).train()
    graph = torch.fx.symbolic_trace(model)
    small, large = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 160, 160)
    for images in (small, large):
        torch.manual_seed(0)
        expected = model(images)
        torch.manual_seed(0)
        torch.testing.assert_close(graph(images), expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (8, 8)])
@pytest.mark.parametrize(
    ("channels", "kernel_size", "groups"), [((6, 9), 1, 1), ((6, 6), 3, 6), ((6, 6), 1, 6), ((1, 1), 3, 1)]
)
def test_a_training_step_of_a_block_is_that_of_plain_convolutions(size, channels, kernel_size, groups):
    torch.manual_seed(0)
    ours = BlockConv2d(*channels, kernel_size, groups=groups).double()
    theirs = nn.Conv2d(*channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, channels[0], *size, dtype=torch.double)
    torch.testing.assert_close(ours(x), theirs(x))
    for convolution in (ours, theirs):
        convolution(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_pooled_convolution_is_a_convolution(size):
    torch.manual_seed(0)
    ours, theirs = PooledConv2d(6, 9).double(), nn.Conv2d(6, 9, 1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, *size, dtype=torch.double, requires_grad=True)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    mine = torch.autograd.grad(found, (x, *ours.parameters()), gradient)
    wanted = torch.autograd.grad(expected, (x, *theirs.parameters()), gradient)
    for left, right in zip(mine, wanted, strict=True):
        torch.testing.assert_close(left, right)
