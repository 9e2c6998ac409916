import pytest
import timm
import torch

import rexnet
from rexnet.data.preprocess import Preprocess
from rexnet.errors import WeightsError
from rexnet.loading import load_network
from rexnet.models import published
from rexnet.models.weights import native_to_timm
from rexnet.references import resolve
from rexnet.training import checkpoint


@pytest.fixture
def half(tmp_path):
    """The state dict of a rexnet_050 for ImageNet, in an official file."""
    torch.manual_seed(0)
    model = rexnet.create_model("rexnet_050").eval()
    torch.save(model.state_dict(), tmp_path / "half.pth")
    return model


def test_a_run_folder_is_its_best_checkpoint(tiny_model, tiny_preprocess, tmp_path):
    for seed, name in enumerate(("best.pt", "last.pt")):
        content = checkpoint.pack(tiny_model(seed), {}, classes=("a", "b", "c"), preprocess=tiny_preprocess)
        checkpoint.save(tmp_path / name, content)
    trained = rexnet.load(tmp_path)
    assert trained.classes == ("a", "b", "c") and trained.preprocess == tiny_preprocess and not trained.training
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(trained(images), tiny_model(0).eval()(images))


@pytest.mark.parametrize("convert", [dict, native_to_timm])
def test_an_official_or_timm_file_names_its_network(half, convert, tmp_path):
    torch.save(convert(half.state_dict()), tmp_path / "w.pth")
    trained = rexnet.load(tmp_path / "w.pth")
    images = torch.randn(1, 3, 64, 64)
    assert trained.name == "rexnet_050" and torch.equal(trained(images), half(images))
    assert trained.classes[:2] == ("tench", "goldfish") and trained.preprocess == Preprocess()


def test_published_weights_and_the_name_of_a_network_that_has_some(half, monkeypatch, tmp_path):
    row = published.PUBLISHED["rexnet_100.nav_in1k"]
    monkeypatch.setattr("rexnet.models.weights.download_weights", lambda name: tmp_path / "half.pth")
    for name in ("rexnet_100.nav_in1k", "rexnet_100"):
        assert rexnet.load(name).preprocess == Preprocess.from_dict(row.preprocess)
    with pytest.raises(WeightsError, match="no published weights of rexnet_050"):
        rexnet.load("rexnet_050")


def test_a_file_of_timms_needs_the_name_of_its_network(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth' .*--model"):
        rexnet.load(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="does not fit timm/test_vit"):
        rexnet.load(tmp_path / "w.pth", network="timm/test_vit")
    trained = rexnet.load(tmp_path / "w.pth", network="timm/test_resnet")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(trained(images), theirs(images))
    assert trained.classes == tuple("0123456") and trained.preprocess.image_size_px == 160


def test_a_network_is_not_named_twice(tiny_model, tiny_preprocess, tmp_path):
    content = checkpoint.pack(tiny_model(), {}, classes=("a", "b", "c"), preprocess=tiny_preprocess)
    checkpoint.save(tmp_path / "best.pt", content)
    for model in (tmp_path / "best.pt", "timm/resnet18"):
        with pytest.raises(WeightsError, match="--model rexnet_100"):
            rexnet.load(model, network="rexnet_100")


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18", "rexnet_130.nav_in1k", "hf://owner/name"])
def test_without_a_network_connection_the_error_is_one_sentence(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match="could not be downloaded") as error:
        rexnet.load(name)
    assert "\n" not in str(error.value)


def test_networks_to_measure_are_random_unless_they_have_weights():
    for name in ("rexnet_050", "timm/test_resnet", "torchvision/squeezenet1_1"):
        model = load_network(resolve(name))
        assert not model.training and model.classes == () and model.preprocess.image_size_px in (160, 224)
