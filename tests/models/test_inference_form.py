from dataclasses import replace

import pytest
import torch
from torch import nn

from rexnet.models.config import BlockSpec
from rexnet.models.factory import create_model
from rexnet.models.inference_form import fold, pad
from rexnet.models.rexnet import RexNet
from rexnet.training.freezing import freeze_statistics
from tests.networks import image_batch, with_trained_norms


@pytest.mark.parametrize("multiple", [8, 16])
@pytest.mark.parametrize("name", ["rexnet_050", "rexnetr_050", "rexnet_lite_050", "rexnet_plain"])
def test_padded_logits_are_equal_and_widths_are_multiples(name, multiple):
    torch.manual_seed(0)
    model = with_trained_norms(create_model(name, num_classes=7)).eval()
    wide = pad(model, multiple)
    blocks = wide.config.blocks
    widths = {c for block in blocks for c in (block.in_channels, block.expanded_channels, block.se_channels)}
    assert all(width % multiple == 0 for width in widths | {wide.config.stem_channels})
    images = image_batch(64)
    with torch.inference_mode():
        expected = model(images)
        for other in (wide, fold(wide)):
            torch.testing.assert_close(other(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_outputs_keep_their_size():
    model = create_model("rexnet_050", num_classes=0, penultimate_channels=0)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(pad(model.eval(), 16)(images), model(images))


@pytest.mark.parametrize("shortcuts", [(False, False, True), (False, True, True), (True, True, True)])
def test_a_shortcut_into_an_output_that_keeps_its_size_keeps_its_input(shortcuts):
    torch.manual_seed(0)
    widths = (17, 18, 18, 19)
    blocks = tuple(
        BlockSpec(
            in_channels=before, expanded_channels=6 * before, out_channels=after, se_channels=5, shortcut=shortcut
        )
        for before, after, shortcut in zip(widths[:-1], widths[1:], shortcuts, strict=True)
    )
    # One without an expansion, and one whose expansion would be rounded to its input.
    blocks = (replace(blocks[0], expanded_channels=17), replace(blocks[1], expanded_channels=24), blocks[2])
    config = replace(create_model("rexnet_050").config, stem_channels=17, blocks=blocks, penultimate_channels=0)
    model = with_trained_norms(RexNet(config)).eval()
    wide = pad(model, 16)
    kept = [block.in_channels for block in wide.config.blocks]
    first = max(index for index, shortcut in enumerate((False, *shortcuts)) if not shortcut)
    assert kept == [32] * first + list(widths[first:3]) and wide.config.blocks[-1].out_channels == 19
    images = image_batch(48)
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(wide(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_an_activation_that_maps_zero_to_another_value_is_refused():
    config = replace(create_model("rexnet_050").config, activation="softplus")
    with pytest.raises(ValueError, match="softplus changes the added zero channels"):
        pad(RexNet(config), 8)
    with pytest.raises(ValueError, match="multiple is 0; allowed: 1 or more"):
        pad(create_model("rexnet_050"), 0)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["rexnet_050", "rexnet_lite_050", "rexnet_plain"])
def test_folded_logits_are_equal_up_to_rounding_and_the_model_is_unchanged(name, frozen):
    torch.manual_seed(0)
    model = with_trained_norms(create_model(name, num_classes=7)).train()
    if frozen:
        freeze_statistics(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = fold(model)
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(hasattr(module, "running_var") for module in other.modules()) and not other.training
    images = image_batch(64)
    with torch.inference_mode():
        expected = model.eval()(images)
        torch.testing.assert_close(other(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_norm_without_statistics_or_convolution_stays():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert [type(layer) for layer in fold(model)] == [nn.BatchNorm2d, nn.Conv2d, nn.BatchNorm2d]
