from dataclasses import replace

import pytest
import torch

from rexnet.models.folding import folded
from rexnet.models.padding import padded, unpadded
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import create_model
from tests.networks import picture_batch, with_trained_norms


@pytest.mark.parametrize("multiple", [8, 16])
@pytest.mark.parametrize("name", ["rexnet_050", "rexnetr_050", "rexnet_lite_050", "rexnet_plain"])
def test_logits_are_equal_widths_are_multiples_and_the_way_back_is_exact(name, multiple):
    torch.manual_seed(0)
    model = with_trained_norms(create_model(name, num_classes=7)).eval()
    wide = padded(model, multiple)
    blocks = wide.config.blocks
    widths = {c for block in blocks for c in (block.in_channels, block.expanded_channels, block.se_channels)}
    assert all(width % multiple == 0 for width in widths | {wide.config.stem_channels})
    images = picture_batch(64)
    with torch.inference_mode():
        expected = model(images)
        for other in (wide, folded(wide)):
            torch.testing.assert_close(other(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    back = unpadded(wide, model.config)
    assert back.config == model.config
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in model.state_dict().items())


def test_what_is_put_out_keeps_its_size():
    model = create_model("rexnet_050", num_classes=0, penultimate_channels=0)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(padded(model.eval(), 16)(images), model(images))


def test_an_activation_that_makes_something_of_zero_is_refused():
    config = replace(create_model("rexnet_050").config, activation="softplus")
    with pytest.raises(ValueError, match="softplus turns added zero channels into others"):
        padded(RexNet(config), 8)
    with pytest.raises(ValueError, match="multiple is 0; allowed: 1 or more"):
        padded(create_model("rexnet_050"), 0)
