import pytest

from rexnet.errors import OptionError, WeightsError
from rexnet.serve.config import ServeConfig, named_references


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ()},
        {"port": -1},
        {"port": 65536},
        {"workers": 0},
        {"threads": 0},
        {"max_batch": 0},
        {"batch_wait_ms": -1},
        {"batch_wait_ms": float("nan")},
        {"queue_length": 0},
        {"queue_length": 2, "max_images": 3},
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"body_timeout_s": float("nan")},
        {"max_body_mib": 0},
        {"max_megapixels": -1},
        {"max_images": 0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(OptionError):
        ServeConfig(**{"models": ("a.pt",), **wrong})


def test_only_this_machine_is_answered_by_default():
    assert ServeConfig(models=("a.pt",)).host == "127.0.0.1"


@pytest.mark.parametrize("file", ["s3cret-key\n", "\ufeffs3cret-key\r\n", None])
def test_the_key_of_the_file_takes_precedence_over_the_environment(tmp_path, file):
    path = None
    if file is not None:
        path = tmp_path / "key"
        path.write_text(file, encoding="utf-8")
    config = ServeConfig(models=("a.pt",), api_key_file=path and str(path))
    assert config.read_api_key("environment-key") == ("s3cret-key" if file else "environment-key")


def test_no_key():
    assert ServeConfig(models=("a.pt",)).read_api_key(None) is None


@pytest.mark.parametrize("content", [b"", b"short", "schlüssel-lang".encode(), b"two words-here", b"\xff" * 20])
def test_an_unusable_key_is_refused_and_not_shown(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(OptionError) as caught:
        ServeConfig(models=("a.pt",), api_key_file=str(path)).read_api_key()
    assert "words-here" not in str(caught.value) and "lang" not in str(caught.value)


def test_a_missing_key_file_is_not_no_key(tmp_path):
    with pytest.raises(OptionError, match=r"--api-key-file .*none.*: No such file"):
        ServeConfig(models=("a.pt",), api_key_file=str(tmp_path / "none")).read_api_key("from-environment")


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
        "rexnet-Blütén (2024)-1/best.pt",
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
        ("{}/a=b.pt", "a-b", "a=b.pt"),
        ("{}/rexnet-Blütén (2024)-1", "rexnet-Bl-t-n-2024-1", "rexnet-Blütén (2024)-1/best.pt"),
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
        (["{}/flowers", "flowers={}/graph.onnx"], "two models have the name 'flowers'"),
        (["{}"], "is a folder, but neither"),
        (["{}/ü.pt"], "cannot be the name of a model.*, as in 'flowers=/"),
        (["../x={}/graph.onnx"], "cannot be the name of a model"),
        (["stats={}/graph.onnx"], "cannot be the name of a model"),
    ],
)
def test_bad_names_and_models_are_refused(files, words, said):
    with pytest.raises(OptionError, match=said):
        named_references([word.format(files) for word in words])


def test_a_missing_file_is_not_a_value_that_is_not_allowed(files):
    with pytest.raises(WeightsError, match="there is no file") as caught:
        named_references([f"{files}/nothing.pt"])
    assert not isinstance(caught.value, OptionError)
