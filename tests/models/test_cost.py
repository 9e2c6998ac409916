import pytest
import timm
import torch

import rexnet
from rexnet.models.cost import measure_cost


def test_counts_agree_with_torchs_own_counter():
    from torch.utils.flop_counter import FlopCounterMode

    for model in (rexnet.create_model("rexnet_130"), timm.create_model("efficientnet_b0")):
        model.eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(torch.randn(1, 3, 128, 128))
        cost = measure_cost(model, image_size_px=128)
        assert cost.macs * 2 == counter.get_total_flops()
        assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_model_is_unchanged():
    model = rexnet.create_model("rexnet_100").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cost = measure_cost(model, 64)
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert str(cost) == "4.80 M parameters, 34.6 M MACs at 64 px"
    assert cost.layers[3].name == "features.3" and cost.layers[3].output_shape == (16, 32, 32)
    assert cost.activation_bytes > 4 * 32 * 32 * 32


def test_macs_grow_with_the_area():
    model = rexnet.create_model("rexnet_plain")
    small, large = measure_cost(model, 64), measure_cost(model, 128)
    assert large.macs / small.macs == pytest.approx(4, rel=0.02)
