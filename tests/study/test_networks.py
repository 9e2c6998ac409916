import numpy as np
import pytest
import torch
from torch import nn

from rexnet.study.config import PLACEMENTS
from rexnet.study.networks import (
    BLOCKS,
    DeepNetwork,
    SingleConvolution,
    convolve,
    find_activation,
    find_block,
    generator_for,
    outputs,
)
from rexnet.study.protocol import Protocol, Size, deep_name, draw_number

DEEP = Size(in_channels=4, out_channels=64, expanded_channels=4, samples=65)


def make_block():
    return SingleConvolution(kernel_size=5)


@pytest.mark.parametrize("side", [1, 4])
@pytest.mark.parametrize(("kernel_size", "depthwise"), [(1, False), (3, False), (3, True)])
def test_convolutions_of_a_batch_of_networks_are_those_of_torch(side, kernel_size, depthwise):
    x = torch.randn(2, 4, 7, side, side, dtype=torch.float64)
    out_channels, inner = (4, 1) if depthwise else (6, 4)
    weight = torch.randn(2, out_channels, inner, kernel_size, kernel_size, dtype=torch.float64)
    for network, found in enumerate(convolve(x, weight)):
        images = x[network].transpose(0, 1)
        groups = 4 if depthwise else 1
        expected = nn.functional.conv2d(images, weight[network], padding=kernel_size // 2, groups=groups)
        torch.testing.assert_close(found.transpose(0, 1), expected)


def test_the_depthwise_bottleneck_is_the_block_written_with_torch():
    protocol = Protocol(spatial_size=3, dtype="float64", norm="none")
    generator = generator_for(0, "bottleneck_depthwise", ratio=0.5, network=1)
    size = Size(in_channels=5, out_channels=10, expanded_channels=15, samples=11)
    block = BLOCKS["bottleneck_depthwise"]
    *weights, x = tensors = protocol.draw_tensors(block, size, generator)
    images = x.transpose(0, 1)
    inside = nn.functional.silu(nn.functional.conv2d(images, weights[0]))
    inside = nn.functional.silu(nn.functional.conv2d(inside, weights[1], padding=1, groups=15))
    expected = nn.functional.conv2d(inside, weights[2])
    expected[:, :5] += images
    found = outputs(protocol, block, batch=[tensors], activations=["silu"])[0]
    torch.testing.assert_close(found[0], expected.transpose(0, 1).flatten(1))


def test_batch_statistics_centre_every_channel():
    x = Protocol(norm="batch").normalise(torch.randn(2, 3, 50, 1, 1) + 5, 50)
    torch.testing.assert_close(x.mean((2, 3, 4)), torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_blocks_and_activations_by_name():
    assert find_block("tests.study.test_networks:make_block").kernel_size == 5
    assert isinstance(find_activation("Mish"), nn.Mish)
    for find, name in ((find_block, "conv7x7"), (find_activation, "relu9"), (find_activation, "MaxPool2d")):
        with pytest.raises(ValueError, match=f"'{name}'; allowed: "):
            find(name)
    with pytest.raises(ValueError, match="cannot be imported"):
        find_block("rexnet.nowhere:block")


def test_draws_depend_on_their_four_numbers_only():
    first = generator_for(1, "conv1x1", ratio=0.1, network=2).standard_normal(4)
    assert np.array_equal(first, generator_for(1, "conv1x1", ratio=0.1, network=2).standard_normal(4))
    for seed, block, ratio, network in ((0, "conv1x1", 0.1, 2), (1, "conv3x3", 0.1, 2), (1, "conv1x1", 0.2, 2)):
        other = generator_for(seed, block, ratio=ratio, network=network)
        assert not np.array_equal(first, other.standard_normal(4))
    other = generator_for(1, "conv1x1", ratio=0.1, network=3)
    assert not np.array_equal(first, other.standard_normal(4))


def test_distributions_of_the_expansion():
    generator = np.random.default_rng(0)
    assert draw_number("constant:6", generator) == 6
    assert all(0.5 <= draw_number("log_uniform:0.5:2", generator) <= 2 for _ in range(50))
    for wrong in ("uniform:3", "uniform:6:0", "log_uniform:0:6", "gamma:1:2"):
        with pytest.raises(ValueError, match=f"expansion is '{wrong}'; allowed: constant:VALUE"):
            draw_number(wrong, generator)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("ratios", (0.0,), "--ratios is 0.0; allowed: above 0, up to 4"),
        ("largest_size", 4, "--largest-size is 4; allowed: 5"),
        ("tolerance", 1.0, "--tolerance is 1.0; allowed: above 0"),
        ("weight_scale", 0.0, "--weight-scale is 0.0; allowed: above 0"),
        ("samples_per_channel", 1.0, "--samples-per-channel is 1.0; allowed: above 1"),
        ("activations", (), "--activations is "),
    ],
)
def test_impossible_protocols_are_refused(field, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        Protocol(**{field: value})


@pytest.mark.parametrize("layers", [2, 5, 6])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_requested_number_of_layers_expand_between_the_same_ends(placement, layers):
    for count in range(1, layers + 1):
        block = find_block(deep_name(placement, count, layers=layers))
        assert block == DeepNetwork(layers=layers, expand_layers=count, placement=placement)
        shapes = block.weight_shapes(DEEP)
        grows = [after > before for after, before, _ in shapes]
        assert (len(grows), sum(grows), shapes[0][1], shapes[-1][0]) == (layers, count, 4, 64)
        if placement == "early":
            assert all(grows[:count])
        if placement == "late":
            assert all(grows[-count:])


def test_one_spread_layer_is_in_the_middle_and_all_layers_are_the_same_anywhere():
    assert find_block("spread_1_of_6").widths(DEEP) == [4, 4, 4, 64, 64, 64, 64]
    assert find_block("spread_2_of_6").widths(DEEP) == [4, 4, 16, 16, 16, 64, 64]
    widths = [find_block(deep_name(placement, 4, layers=4)).widths(DEEP) for placement in PLACEMENTS]
    assert widths == [[4, 8, 16, 32, 64]] * 3


def test_a_deep_network_is_its_layers_written_with_torch():
    protocol = Protocol(weights="he", weight_scale=1.0, dtype="float64", norm="none")
    block = find_block("late_2_of_3")
    *weights, x = tensors = protocol.draw_tensors(block, DEEP, generator_for(0, "deep", ratio=0.1, network=0))
    expected = x[:, :, 0, 0]
    for weight in weights:
        expected = nn.functional.silu(weight[:, :, 0, 0] @ expected)
    torch.testing.assert_close(outputs(protocol, block, batch=[tensors], activations=["silu"])[0, 0], expected)


@pytest.mark.parametrize("name", ["late_0_of_3", "late_4_of_3", "middle_1_of_3"])
def test_impossible_deep_networks_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}'; allowed: conv1x1, .*late_2_of_6, or module:factory"):
        find_block(name)
