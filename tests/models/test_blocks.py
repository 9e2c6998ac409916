import pytest
import torch

from rexnet.models.blocks import BlockSpec, DropPath, LinearBottleneck, NormConfig, add_to_first_channels


def test_partial_shortcut_has_the_gradient_of_a_padded_sum():
    out = torch.randn(2, 5, 3, 3, dtype=torch.double, requires_grad=True)
    shortcut = torch.randn(2, 3, 3, 3, dtype=torch.double, requires_grad=True)

    def padded(out, shortcut):
        return out + torch.nn.functional.pad(shortcut, (0, 0, 0, 0, 0, 2))

    assert torch.equal(add_to_first_channels(out.clone(), shortcut), padded(out, shortcut))
    assert torch.autograd.gradcheck(lambda a, b: add_to_first_channels(a * 1, b), (out, shortcut))
    assert torch.autograd.gradgradcheck(lambda a, b: add_to_first_channels(a * 1, b), (out, shortcut))


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
