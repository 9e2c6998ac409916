import pytest
import torch

from rexnet.models.blocks import ACTIVATIONS, BlockSpec, DropPath, LinearBottleneck, NormConfig


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
def test_a_wrong_block_is_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        BlockSpec(**{"in_channels": 4, "expanded_channels": 24, "out_channels": 6, **changes})
