from pathlib import Path

import pytest
from httpx2 import Request, Response
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

import rexnet
from rexnet.errors import WeightsError
from rexnet.models import hub
from rexnet.training import checkpoint

ADDRESS = "hf://owner/animals"


@pytest.fixture
def folder(tiny_model, tiny_preprocess, tmp_path) -> Path:
    content = checkpoint.pack(tiny_model(), {}, classes=("a", "b", "c"), preprocess=tiny_preprocess)
    (tmp_path / "model.onnx").mkdir()  # a misleading name
    checkpoint.save(tmp_path / "model.onnx" / hub.WEIGHTS, content)
    return tmp_path / "model.onnx"


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_folder_means_its_weights(folder, tmp_path):
    assert hub.weights_path(folder) == folder / hub.WEIGHTS
    assert rexnet.load(folder).classes == ("a", "b", "c")
    assert rexnet.create_model(str(folder / hub.WEIGHTS), weights=folder).num_classes == 3
    assert hub.weights_path(tmp_path) == tmp_path


def test_an_address_is_fetched(folder, monkeypatch):
    asked = []

    def fetch(*place, revision):
        asked.append((*place, revision))
        return folder / hub.WEIGHTS

    monkeypatch.setattr(hub, "download", fetch)
    assert rexnet.load(ADDRESS).classes == rexnet.load(f"{ADDRESS}@v2").classes == ("a", "b", "c")
    assert rexnet.load_weights(rexnet.load(folder), ADDRESS).kind == "checkpoint"
    repository = ("owner/animals", hub.WEIGHTS)
    assert asked == [(*repository, None), (*repository, "v2"), (*repository, None)]


@pytest.mark.parametrize("address", ["hf://", "hf://owner", "hf://a/b/c", "hf://../x", "hf://a/..", "hf://a/b c"])
def test_other_addresses_are_refused(address):
    with pytest.raises(WeightsError, match="allowed: hf://OWNER/NAME") as error:
        rexnet.load(address)
    assert "\n" not in str(error.value)


def test_without_a_network_connection_the_error_is_one_sentence(empty_cache):
    with pytest.raises(WeightsError, match=r"hf://owner/animals could not be downloaded \(\w+\); without a network"):
        rexnet.load(ADDRESS)


def test_offline_the_copy_of_the_last_download_is_used(folder, empty_cache, tmp_path, caplog):
    cached = tmp_path / "hub" / "models--owner--animals"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / ("0" * 40))
    assert rexnet.load(ADDRESS).classes == ("a", "b", "c")
    assert "the last downloaded copy" in caplog.text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (RepositoryNotFoundError, "the hub has no accessible repository 'owner/animals'"),
        (RevisionNotFoundError, "has no revision 'v2'"),
        (EntryNotFoundError, "contains no model.safetensors"),
    ],
)
def test_files_missing_on_the_hub(monkeypatch, kind, words):
    def refuse(*_, **__):
        response = Response(404, request=Request("GET", "https://hub.example"))
        raise kind("404", response=response) if kind is not EntryNotFoundError else kind("404")

    monkeypatch.setattr(hub, "download", refuse)
    with pytest.raises(WeightsError, match=words):
        rexnet.load(f"{ADDRESS}@v2")
