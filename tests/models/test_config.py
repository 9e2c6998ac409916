import json

import pytest

import rexnet
from rexnet.models.variants import model_config


@pytest.fixture
def config_file(tmp_path, tiny_model):
    path = tmp_path / "tiny.json"
    path.write_text("\ufeff" + json.dumps(tiny_model().config.to_dict()), encoding="utf-8")
    return path


def test_a_file_describes_the_network_it_was_written_from(config_file, tiny_model):
    assert model_config(str(config_file)) == tiny_model().config
    assert model_config(str(config_file), num_classes=5).num_classes == 5
    assert rexnet.create_model(str(config_file)).state_dict().keys() == tiny_model().state_dict().keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "contains no rexnet network"),
        ("[1]", "contains no rexnet network"),
        ("{}", "it has no 'blocks'"),
        ('{"name": "x", "blocks": [], "norm": {}}', "blocks is empty"),
        ('{"name": "x", "blocks": [{"width": 3}], "norm": {}}', "contains no rexnet network"),
        ("\\u0000\\xff", "contains no rexnet network"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        model_config(str(path))
    assert "\n" not in str(error.value)


def test_unreadable_files_are_refused(tmp_path, config_file):
    with pytest.raises(ValueError, match=r"missing\.json' cannot be read: No such file"):
        model_config(str(tmp_path / "missing.json"))
    with pytest.raises(ValueError, match=r"missing\.pt' does not exist"):
        model_config(str(tmp_path / "missing.pt"))
    with pytest.raises(ValueError, match="takes its channels from the file"):
        model_config(str(config_file), width=1.0)
