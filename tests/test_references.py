import json

import pytest

from rexnet.cli import main
from rexnet.errors import WeightsError
from rexnet.models import hub
from rexnet.references import KINDS, PRETRAINED, refuse_swapped, resolve
from rexnet.training import checkpoint


@pytest.fixture
def here(tiny_model, tiny_preprocess, tmp_path, monkeypatch):
    """One of each thing that has a path, in the working folder."""
    monkeypatch.chdir(tmp_path)
    content = checkpoint.pack(tiny_model(), {}, classes=("a", "b", "c"), preprocess=tiny_preprocess)
    for folder in ("run", "unfinished", "new", "card", "photos", "rexnet_100"):
        (tmp_path / folder).mkdir()
    for folder in ("run", "unfinished", "new"):
        (tmp_path / folder / "config.json").write_text(json.dumps({"network": {}}))
    (tmp_path / "card" / "config.json").write_text(json.dumps({"architecture": "tiny"}))
    checkpoint.save(tmp_path / "run" / "best.pt", content)
    checkpoint.save(tmp_path / "run" / "last.pt", content)
    checkpoint.save(tmp_path / "unfinished" / "last.pt", content)
    checkpoint.save(tmp_path / "card" / hub.WEIGHTS, content)
    checkpoint.save(tmp_path / "rexnet_100" / "best.pt", content)
    checkpoint.save(tmp_path / "w.safetensors", content)
    for name in ("net.json", "m.onnx", "photos/one.jpg"):
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("rexnet_100", "network"),
        ("rexnet_lite_117", "network"),
        ("rexnet_plain", "network"),
        ("rexnet_100.nav_in1k", "published"),
        ("hf://owner/name", "hub"),
        ("timm/resnet18.a1_in1k", "timm"),
        ("torchvision/vgg16_bn", "torchvision"),
        ("rewritten/timm/resnet50", "rewritten"),
        ("my_code:make", "factory"),
        ("run", "run"),
        ("new", "run"),
        ("card", "folder"),
        ("./rexnet_100", "run"),
        ("run/best.pt", "weights"),
        ("w.safetensors", "weights"),
        ("m.onnx", "exported"),
        ("net.json", "config"),
    ],
)
def test_every_kind(here, text, kind):
    assert resolve(text).kind == kind


def test_a_path_means_the_path(here):
    assert resolve(here / "rexnet_100").kind == "run"
    assert resolve(here / "rexnet_100").file == here / "rexnet_100" / "best.pt"


def test_the_file_of_a_reference(here, caplog):
    assert resolve("run").file.name == "best.pt" and not caplog.text
    assert resolve("card").file.name == hub.WEIGHTS
    assert resolve("unfinished").file.name == "last.pt"
    assert "no best.pt" in caplog.text and "last.pt" in caplog.text
    with pytest.raises(WeightsError, match="'new' has no checkpoint yet"):
        _ = resolve("new").file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rexnet100", r"rexnet100.*did you mean rexnet_100"),
        ("rexnet_100.nav_in1kk", r"did you mean rexnet_100\.nav_in1k"),
        ("runs/none/best.pt", "no file 'runs/none/best.pt'"),
        ("none.onnx", "no file 'none.onnx'"),
        ("hf-hub:timm/rexnet_100.nav_in1k", "write hf://timm/rexnet_100.nav_in1k"),
        ("https://huggingface.co/a/b", "write hf://a/b"),
        ("photos", "is a folder, but neither a run folder"),
        ("photos/one.jpg", "'photos/one.jpg' is an image, not a model"),
    ],
)
def test_unknown_strings_are_refused_in_one_sentence(here, text, said):
    with pytest.raises(WeightsError, match=said) as error:
        resolve(text, allowed=PRETRAINED)
    assert "\n" not in str(error.value)
    for kind, words in KINDS.items():
        assert (words in str(error.value)) == (kind in PRETRAINED), kind


def test_another_kind_than_allowed_is_named(here):
    with pytest.raises(WeightsError, match=r"'m\.onnx' is a file of `rexnet export`.*; allowed: a run folder"):
        resolve("m.onnx", allowed=("run", "weights"))


@pytest.mark.parametrize("command", ["serve", "export", "quantize", "card", "bench", "report", "study advise"])
def test_an_image_for_a_model(here, capsys, command):
    more = {"quantize": "--data digits --output a.onnx", "export": "--output a.onnx", "card": "--output c"}
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "photos/one.jpg", *more.get(command, "").split()])
    assert stop.value.code == 2
    assert "'photos/one.jpg' is an image, not a model" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "validate", "detect predict", "detect validate"])
@pytest.mark.parametrize("data", ["photos/one.jpg", "photos", "photos/*.jpg", "new.heic"])
@pytest.mark.parametrize("model", ["run", "run/best.pt", "card", "m.onnx", "w.safetensors", "rexnet_100.nav_in1k"])
def test_a_model_after_the_images(here, capsys, command, data, model):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), data, model, *(["--out", "o"] if command == "detect predict" else [])])
    quoted = f"'{data}'" if "*" in data else data
    assert stop.value.code == 2 and f"MODEL comes first: rexnet {command} {model} {quoted}" in capsys.readouterr().err


def test_the_right_order_is_accepted(here):
    for model, data in (("run", "photos"), ("net.json", "photos"), ("photos/one.jpg", "photos"), ("run", "card")):
        refuse_swapped(model, data, command="predict")
