from dataclasses import replace

import pytest
import timm
import torch
from timm.models.rexnet import RexNet as TimmRexNet

import rexnet
from rexnet.errors import WeightsError
from rexnet.models.timm_keys import has_timm_keys, native_to_timm, timm_to_native
from rexnet.models.variants import FAMILIES, family_config

NAMES = [f"{family}_{width}" for family in ("rexnet", "rexnetr") for width in (100, 130, 150, 200, 300)]


def randomise(model, seed):
    """Weights and statistics that leave no two layers alike, at a scale that keeps activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(int(torch.randint(1, 1000, (), generator=generator)))
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.2, generator=generator)
    return model.eval()


def relative_gap(ours, theirs, size=64):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(images)
        assert expected.std(0).max() > 1e-3, "the network tells the two images apart"
        return float((ours(images) - expected).abs().max() / expected.abs().max())


@pytest.mark.seconds
@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_timms_in_both_directions(name):
    theirs = randomise(timm.create_model(name), 1)
    ours = rexnet.create_model(name).eval()
    ours.load_state_dict(timm_to_native(theirs.state_dict()))
    assert relative_gap(ours, theirs) < 1e-4

    randomise(ours, 2)
    assert relative_gap(ours, theirs) > 1e-2
    theirs.load_state_dict(native_to_timm(ours.state_dict()))
    assert relative_gap(ours, theirs) < 1e-4


@pytest.mark.parametrize("width", [0.9, 1.25, 2.2])
@pytest.mark.parametrize("depth", [1.0, 1.4, 0.5])
def test_any_depth_and_unpublished_widths(width, depth):
    # Where 1280 * width is no whole number timm rounds it and the official code cuts it, so 1.17 would not fit.
    theirs = randomise(TimmRexNet(width_mult=width, depth_mult=depth, num_classes=7), 3)
    config = family_config(replace(FAMILIES["rexnet"], depth=depth), width, name="deep", num_classes=7)
    ours = rexnet.RexNet(config).eval()
    ours.load_state_dict(timm_to_native(theirs.state_dict()))
    assert relative_gap(ours, theirs) < 1e-4


@pytest.mark.parametrize("name", ["rexnet_100", "rexnetr_130"])
@pytest.mark.parametrize("num_classes", [0, 5])
def test_there_and_back_is_the_identity_and_keeps_the_order(name, num_classes):
    state = timm.create_model(name, num_classes=num_classes).state_dict()
    native = timm_to_native(state)
    assert list(native) == list(rexnet.create_model(name, num_classes=num_classes).state_dict())
    back = native_to_timm(native)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_without_squeeze_excitation():
    theirs = randomise(TimmRexNet(se_ratio=0.0, num_classes=4), 4)
    config = family_config(replace(FAMILIES["rexnet"], se_ratio=0), 1.0, name="no-se", num_classes=4)
    ours = rexnet.RexNet(config).eval()
    ours.load_state_dict(timm_to_native(theirs.state_dict()))
    assert relative_gap(ours, theirs) < 1e-4


def test_kinds_are_distinguished():
    assert has_timm_keys(timm.create_model("rexnet_100").state_dict())
    assert not has_timm_keys(rexnet.create_model("rexnet_100").state_dict())
    assert not has_timm_keys(timm.create_model("mobilenetv2_050").state_dict())


@pytest.mark.parametrize("name", ["rexnet_lite_100", "rexnet_plain"])
def test_networks_that_timm_does_not_have(name):
    with pytest.raises(WeightsError, match="no counterpart"):
        native_to_timm(rexnet.create_model(name).state_dict())


@pytest.mark.parametrize("key", ["features.3.conv_dw.more.weight", "features.3.se.fc3.weight", "head.norm.weight", "x"])
def test_a_key_unknown_to_timm_is_named(key):
    state = timm.create_model("rexnet_100").state_dict()
    with pytest.raises(WeightsError, match=key):
        timm_to_native({**state, key: torch.zeros(1)})


@pytest.mark.parametrize("key", ["features.5.norm.x.y", "output.7.weight", "x"])
def test_a_key_unknown_to_the_official_files_is_named(key):
    state = rexnet.create_model("rexnet_100").state_dict()
    with pytest.raises(WeightsError, match=key):
        native_to_timm({**state, key: torch.zeros(1)})


def test_a_stray_layer_in_a_block_is_not_an_expansion():
    state = rexnet.create_model("rexnet_100").state_dict()
    with pytest.raises(WeightsError, match="other layers"):
        native_to_timm({**state, "features.3.out.9.weight": torch.zeros(1)})
