"""Convolutions of small maps are nn.Conv2d's, in values, gradients and keys."""

import pytest
import torch
from torch import nn

from rexnet.models import convolutions
from rexnet.models.convolutions import BlockConv2d, PooledConv2d, mix_positions
from rexnet.models.factory import create_model


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
    monkeypatch.setattr(convolutions, "mix_positions", lambda x, weight: calls.append(x) or mix_positions(x, weight))
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
