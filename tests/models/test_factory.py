"""Networks by name, in this package's words and in those of timm and torch.hub."""

import numpy as np
import pytest
import torch
from torch import nn

import rexnet
from rexnet.errors import WeightsError
from rexnet.models import published
from rexnet.models.blocks import SiLU


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """The state dict that stands for the published weights of rexnet_100."""
    state = rexnet.create_model("rexnet_100").state_dict()
    path = tmp_path / "rexnet_100.pth"
    torch.save(state, path)
    monkeypatch.setattr("rexnet.models.weights.download_weights", lambda name: path)
    return state


def equal(model, state, *, but=()):
    own = model.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items() if key not in but)


def test_pretrained_is_the_first_published_file(weights):
    assert equal(rexnet.create_model("rexnet_100", pretrained=True), weights)
    assert not equal(rexnet.create_model("rexnet_100", pretrained=False), weights)


def test_pretrained_gives_other_classes_a_new_classifier(weights):
    classifier = ("output.1.weight", "output.1.bias")
    model = rexnet.create_model("rexnet_100", pretrained=True, num_classes=5)
    assert model.num_classes == 5 and equal(model, weights, but=classifier)
    headless = rexnet.create_model("rexnet_100", pretrained=True, num_classes=0)
    assert headless.num_classes == 0 and equal(headless, weights, but=classifier)


def test_pretrained_of_a_network_without_published_weights_or_beside_a_file(tmp_path):
    assert not published.published_for("rexnet_110")
    with pytest.raises(WeightsError, match="no published weights of rexnet_110; weights= takes a file"):
        rexnet.create_model("rexnet_110", pretrained=True)
    with pytest.raises(WeightsError, match="together with pretrained=True"):
        rexnet.create_model("rexnet_100", pretrained=True, weights=tmp_path / "w.pth")


def test_timms_names_of_options(tmp_path):
    model = rexnet.create_model("rexnet_090", in_chans=1, num_classes=3, dtype=torch.float64, global_pool="")
    assert model(torch.randn(2, 1, 64, 64, dtype=torch.float64)).shape == (2, 3, 2, 2)
    assert next(rexnet.create_model("rexnet_090", device="meta").parameters()).is_meta
    torch.save(rexnet.create_model("rexnet_090").state_dict(), tmp_path / "w.pth")
    assert equal(rexnet.create_model("rexnet_090", checkpoint_path=tmp_path / "w.pth"), torch.load(tmp_path / "w.pth"))


def test_other_fields_of_the_config_are_options():
    assert rexnet.create_model("rexnet_020", penultimate_channels=64, num_classes=0)(
        torch.randn(2, 3, 32, 32)
    ).shape == (2, 64)


@pytest.mark.parametrize("given", ["relu", nn.ReLU])
def test_another_activation_replaces_timms(given):
    def kinds(model, of):
        return [type(module) for module in model.modules() if isinstance(module, of)]

    model, usual = rexnet.create_model("rexnet_100", act_layer=given), rexnet.create_model("rexnet_100")
    assert not kinds(model, SiLU) and len(kinds(usual, SiLU)) == 17  # stem, 15 expansions, penultimate
    assert len(kinds(model, nn.ReLU6)) == len(kinds(usual, nn.ReLU6)) == 16
    assert rexnet.create_model("rexnet_100", act_layer="swish").config == usual.config
    assert rexnet.create_model("rexnet_100", act_layer=nn.LeakyReLU).config.activation == "leaky_relu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"act_layer": "mish"}, "act_layer is 'mish'; allowed: identity, relu"),
        ({"global_pool": "catavg"}, "global_pool is 'catavg'; allowed: 'avg', 'max', ''"),
        ({"features_only": True}, r"features_only is not an option .*; model.feature_maps\(images\)"),
        ({"num_class": 3}, r"num_class is not an option .*; did you mean num_classes\?"),
        ({"img_size": 32}, "img_size is not an option .*; allowed: .*num_classes, .*width"),
    ],
)
def test_unknown_options_are_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as error:
        rexnet.create_model("rexnet_100", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"in_chans": 1, "in_channels": 3}, {"checkpoint_path": "a.pt", "weights": "b.pt"}], ids=str
)
def test_one_option_by_two_names_is_refused(options):
    with pytest.raises(ValueError, match=" and ".join(options)):
        rexnet.create_model("rexnet_050", **options)


@pytest.mark.parametrize("options", [{"num_classes": True}, {"num_classes": "10"}, {"drop_rate": "0.2"}])
def test_values_of_another_type_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}; allowed: "):
        rexnet.create_model("rexnet_010", **options)


def test_a_rate_may_be_a_number_of_numpy():
    assert rexnet.create_model("rexnet_010", drop_rate=np.float32(0.25)).config.drop_rate == 0.25
