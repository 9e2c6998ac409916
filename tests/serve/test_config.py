import pytest

from rexnet.errors import OptionError
from rexnet.serve.config import ServeConfig


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
