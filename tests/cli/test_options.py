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
def test_an_option_that_is_gone_names_its_replacement(words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    assert stop.value.code == 2 and re.search(sentence, capsys.readouterr().err)
