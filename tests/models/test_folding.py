import pytest
import torch
from torch import nn

from rexnet.models.folding import folded
from rexnet.models.variants import create_model
from rexnet.training.freezing import freeze_statistics
from tests.networks import picture_batch, with_trained_norms


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["rexnet_050", "rexnet_lite_050", "rexnet_plain"])
def test_logits_are_equal_up_to_rounding_and_the_model_is_left_alone(name, frozen):
    torch.manual_seed(0)
    model = with_trained_norms(create_model(name, num_classes=7)).train()
    if frozen:
        freeze_statistics(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = folded(model)
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(hasattr(module, "running_var") for module in other.modules()) and not other.training
    images = picture_batch(64)
    with torch.inference_mode():
        expected = model.eval()(images)
        torch.testing.assert_close(other(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_norm_without_statistics_or_convolution_stays():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert [type(layer) for layer in folded(model)] == [nn.BatchNorm2d, nn.Conv2d, nn.BatchNorm2d]
