import hashlib
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.data import resolve_data_config

import rexnet
from rexnet.data.preprocess import Preprocess
from rexnet.errors import MissingPackageError, WeightsError
from rexnet.models.published import PUBLISHED, download_weights, markdown_table, published_for
from rexnet.models.weights import read_weights
from tests.hub_caches import put_in_hub_cache, put_in_torch_cache


def test_the_table_is_the_one_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    assert markdown_table() in page, "write published.markdown_table() into docs/weights.md"


def test_names_are_model_and_tag_and_every_model_exists():
    assert len(PUBLISHED) == 22
    for name, row in PUBLISHED.items():
        assert name == row.name and name.partition(".")[0] == row.model and row.model in rexnet.list_models()
        assert row.address.startswith("https://") and row.file.endswith((".pth", ".safetensors"))
    assert [row.name for row in published_for("rexnet_300")] == ["rexnet_300.nav_in1k", "rexnet_300.official"]
    assert published_for("rexnet_090") == []


@pytest.mark.parametrize("name", [name for name, row in PUBLISHED.items() if row.host == "hugging-face"])
def test_facts_are_those_of_the_installed_timm(name):
    row, config = PUBLISHED[name], timm.get_pretrained_cfg(name)
    assert config is not None and config.hf_hub_id == f"timm/{name}" and row.address.endswith(config.hf_hub_id)
    assert row.licence is not None and row.licence.lower() == config.license
    assert row.num_classes == config.num_classes
    transform = resolve_data_config(pretrained_cfg=config.to_dict())
    assert row.preprocess == {
        "image_size_px": transform["input_size"][-1],
        "crop_ratio": transform["crop_pct"],
        "interpolation": transform["interpolation"],
        "mean": list(transform["mean"]),
        "std": list(transform["std"]),
    }


def test_all_hub_tags_with_weights_are_in_the_table():
    tags = [name for name in timm.list_pretrained("rexnet*")]
    assert sorted(tags) == sorted(name for name, row in PUBLISHED.items() if row.host == "hugging-face")


def test_unknown_values_are_none():
    for name, row in PUBLISHED.items():
        assert (row.preprocess is None) == ("lite" in name)
        if row.preprocess is not None:
            assert Preprocess.from_dict(row.preprocess).to_dict() == row.preprocess
        assert (row.sha256_prefix is None) == (row.host != "timm-release")
        assert (row.top1_percent is None) == name.endswith(".sw_in12k")
        assert row.sha256_prefix is None or f"-{row.sha256_prefix}.pth" in row.file


def test_a_cached_hub_file_is_used_without_network_access(caches, no_sockets, caplog):
    theirs = timm.create_model("rexnet_100")
    path = put_in_hub_cache(caches, "rexnet_100.nav_in1k", theirs.state_dict())
    assert download_weights("rexnet_100.nav_in1k") == path
    with caplog.at_level(logging.INFO):
        model = rexnet.create_model("rexnet_100", weights="rexnet_100.nav_in1k").eval()
    assert f"413 of 413 tensors loaded from rexnet_100.nav_in1k ({str(path)!r})" in caplog.messages
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(model(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)
    weights = read_weights("rexnet_100.nav_in1k")
    assert weights.kind == "timm" and weights.preprocess == PUBLISHED["rexnet_100.nav_in1k"].preprocess
    assert no_sockets == []


def test_published_weights_of_another_width_are_named(caches, no_sockets):
    put_in_hub_cache(caches, "rexnet_130.nav_in1k", timm.create_model("rexnet_130").state_dict())
    with pytest.raises(WeightsError, match=r"^rexnet_130.nav_in1k \(.*\) is width 1.30 \(rexnet_130\)"):
        rexnet.create_model("rexnet_100", weights="rexnet_130.nav_in1k")


@pytest.mark.parametrize("name", [name for name, row in PUBLISHED.items() if row.host != "google-drive"])
def test_offline_the_error_names_the_download_in_one_sentence(caches, no_sockets, name):
    row = PUBLISHED[name]
    with pytest.raises(WeightsError) as caught:
        download_weights(name)
    text = str(caught.value)
    assert name in text and row.address in text and row.file in text and "\n" not in text and "by hand" in text
    if row.host == "timm-release":
        place = caches / "torch" / "hub" / "checkpoints" / row.file
        assert repr(str(place)) in text and not list(place.parent.iterdir())
    assert no_sockets


def test_the_hub_client_in_offline_mode(caches, no_sockets, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="by hand"):
        download_weights("rexnet_100.nav_in1k")
    assert no_sockets == []


def test_without_the_hub_client(caches, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        MissingPackageError, match=r"pip install huggingface_hub, or download model.safetensors from https:"
    ):
        download_weights("rexnet_100.nav_in1k")


@pytest.mark.parametrize("name", [name for name, row in PUBLISHED.items() if row.host == "google-drive"])
def test_google_drive_is_for_browsers(name):
    with pytest.raises(WeightsError) as caught:
        download_weights(name)
    assert PUBLISHED[name].address in str(caught.value) and PUBLISHED[name].file in str(caught.value)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(WeightsError, match=r"'rexnet_100.no'; allowed: rexnet_100.nav_in1k, "):
        download_weights("rexnet_100.no")


def test_a_cached_release_file_is_used_and_its_hash_checked(caches, monkeypatch, no_sockets):
    name = "rexnet_100.timm_release"
    path = put_in_torch_cache(caches, name, timm.create_model("rexnet_100").state_dict(), monkeypatch)
    assert download_weights(name) == path
    assert rexnet.load_weights(rexnet.create_model("rexnet_100"), name).loaded == 413
    assert no_sockets == []

    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="delete the file") as caught:
        download_weights(name)
    assert repr(str(path)) in str(caught.value)


def test_a_release_download_is_kept_only_with_the_right_hash(caches, monkeypatch, tmp_path):
    name = "rexnet_100.timm_release"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (tmp_path / "far").write_bytes(b"content of the file")
    row = replace(PUBLISHED[name], address=(tmp_path / "far").as_uri(), sha256_prefix="00000000")
    monkeypatch.setitem(PUBLISHED, name, row)
    with pytest.raises(WeightsError, match="invalid hash value"):
        download_weights(name)
    assert not list((caches / "torch" / "hub" / "checkpoints").iterdir())

    digest = hashlib.sha256(b"content of the file").hexdigest()
    monkeypatch.setitem(PUBLISHED, name, replace(row, sha256_prefix=digest[:8]))
    path = download_weights(name)
    assert path == caches / "torch" / "hub" / "checkpoints" / row.file and path.read_bytes() == b"content of the file"
