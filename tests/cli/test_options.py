import re

import pytest

from rexnet import cli


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("quantize a.pt --data d --output a.onnx --fine-tune-epochs 2", "--fine-tune-epochs was removed: .*--max-drop"),
        ("quantize a.pt --data d --output a.onnx --fine_tune_epochs=2", "--fine-tune-epochs was removed"),
        ("study rank --backend ray", "--backend was removed: .*--processes N .*--address"),
        ("export a.pt --output a.pte --format executorch", r"--format executorch was removed: .*\.pt2"),
        ("export a.pt --output a.mlpackage --format=coreml", r"--format coreml was removed: .*\.pt2"),
        ("export a.pt --output a.engine --format tensorrt", r"--format tensorrt was removed: .*\.onnx"),
    ],
)
def test_a_removed_option_names_its_replacement(words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    assert stop.value.code == 2 and re.search(sentence, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train --data clean --epochs 2", "--data: here DATA is a positional argument, as in rexnet train clean"),
        ("train --data=a/b", "--data: here DATA is a positional argument, as in rexnet train a/b"),
        ("detect convert yolo --output o", "OUTPUT is a positional argument, as in rexnet detect convert DATA o"),
        ("serve --models=a.pt", "--models: here [NAME=]MODEL ... is a positional argument, as in rexnet serve a.pt"),
    ],
)
def test_a_positional_value_given_as_an_option(words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train digits --model {}", "train digits --weights {}", "serve {}", "bench {}"])
@pytest.mark.parametrize(("model", "code"), [("nix.pt", 1), ("resnet", 2), ("photo.jpg", 2)])
def test_a_missing_file_exits_with_1_and_an_invalid_value_with_2(command, model, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(SystemExit) as stop:
        cli.main(command.format(model).split())
    assert stop.value.code == code
