import pytest

from rexnet.errors import OptionError
from rexnet.serve.model_registry import named_references


@pytest.fixture
def files(tmp_path):
    for name in (
        "flowers/best.pt",
        "cars/best.pt",
        "cars/last.pt",
        "graph.onnx",
        "a=b.pt",
        "ü.pt",
        "my-card/model.safetensors",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("word", "name", "file"),
    [
        ("{}/flowers/best.pt", "flowers", "flowers/best.pt"),
        ("{}/flowers", "flowers", "flowers/best.pt"),
        ("{}/cars/last.pt", "last", "cars/last.pt"),
        ("{}/graph.onnx", "graph", "graph.onnx"),
        ("mine={}/graph.onnx", "mine", "graph.onnx"),
        ("x={}/a=b.pt", "x", "a=b.pt"),
        ("{}/my-card", "my-card", "my-card/model.safetensors"),
        ("mine={}/my-card/", "mine", "my-card/model.safetensors"),
    ],
)
def test_names(files, word, name, file):
    found = named_references([word.format(files)])
    assert {name: reference.file for name, reference in found.items()} == {name: files / file}


def test_a_model_of_the_hub_has_the_name_of_its_repository(files, monkeypatch):
    fetched = files / "my-card/model.safetensors"
    monkeypatch.setattr("rexnet.models.hub.download", lambda repository, file, revision: fetched)
    assert named_references(["hf://someone/roses@v2"])["roses"].file == fetched


def test_a_name_from_where_the_command_runs(files, monkeypatch):
    monkeypatch.chdir(files / "cars")
    assert list(named_references(["best.pt"])) == ["cars"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}/flowers", "flowers={}/graph.onnx"], "two models are called 'flowers'"),
        (["{}/nothing.pt"], "there is no file"),
        (["{}"], "is a folder, but neither"),
        (["{}/ü.pt"], "cannot be the name of a model"),
        (["../x={}/graph.onnx"], "cannot be the name of a model"),
        (["{}/a=b.pt"], "cannot be the name of a model"),
    ],
)
def test_what_is_refused(files, words, said):
    with pytest.raises(OptionError, match=said):
        named_references([word.format(files) for word in words])
