import argparse
import io
import json
import os
import pickle
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from rexnet.errors import WeightsError
from rexnet.models.weight_files import CHECKPOINT_FORMAT, extract_state_dict, read_checkpoint_file

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


class Malice:
    """Touches a file when it is unpickled without care."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return (open, (str(self.sentinel), "w"))


def same(tensors):
    return tensors.keys() == TENSORS.keys() and all(
        torch.equal(tensors[key], TENSORS[key]) and tensors[key].dtype == TENSORS[key].dtype for key in TENSORS
    )


def sentence(path):
    """The text of the refusal: one line that names the file."""
    with pytest.raises(WeightsError) as caught:
        read_checkpoint_file(path)
    text = str(caught.value)
    assert repr(str(path)) in text and "\n" not in text and ";" in text
    return text


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.safetensors", "model_best.pth.tar", "noending"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_the_content_decides_not_the_name(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "zip")
    assert same(read_checkpoint_file(path))
    assert same(read_checkpoint_file(str(path)))


@pytest.mark.parametrize("name", [b"two words.pth", "gr\u00fcn \u2603.pth".encode(), b"new\nline.pth", b"bad\xff.pth"])
@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_odd_file_names(tmp_path, name, kind):
    path = tmp_path / os.fsdecode(name)
    if kind == "zip":
        with path.open("wb") as file:
            torch.save(TENSORS, file)
    else:
        save_file(TENSORS, tmp_path / "plain")
        (tmp_path / "plain").rename(path)
    assert same(read_checkpoint_file(path))
    path.write_bytes(b"junk")
    sentence(path).encode()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("write", ["zip", "legacy", "pickle", "text-pickle"])
@pytest.mark.parametrize("where", ["alone", "beside tensors"])
def test_a_malicious_pickle_runs_nothing(tmp_path, monkeypatch, name, write, where):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    sentinel, path = tmp_path / "sentinel", tmp_path / name
    content = Malice(sentinel) if where == "alone" else {"state_dict": dict(TENSORS), "epoch": Malice(sentinel)}
    if write in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=write == "zip")
    else:
        path.write_bytes(pickle.dumps(content, protocol=0 if write == "text-pickle" else 4))
    text = sentence(path)
    assert write not in ("zip", "legacy") or f"'{open.__module__}.open'" in text  # _io since Python 3.13
    assert not sentinel.exists()

    with warnings.catch_warnings(action="ignore"):
        pickle.loads(pickle.dumps(Malice(sentinel))).close()
    assert sentinel.exists(), "the file would have run"


def test_whole_modules_are_refused_and_the_reason_given(tmp_path):
    path = tmp_path / "m.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "could run code" in sentence(path)


def test_timm_training_checkpoints_hold_their_arguments(tmp_path):
    path = tmp_path / "last.pth.tar"
    torch.save({"epoch": 3, "args": argparse.Namespace(lr=0.1), "state_dict": TENSORS}, path)
    assert same(extract_state_dict(read_checkpoint_file(path)))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_anywhere(tmp_path, kind):
    whole = tmp_path / "whole"
    if kind == "safetensors":
        save_file(TENSORS, whole)
    else:
        torch.save(TENSORS, whole, _use_new_zipfile_serialization=kind == "zip")
    data = whole.read_bytes()
    path = tmp_path / "cut.pth"
    for length in {9, 16, 64, *range(1, len(data), max(len(data) // 40, 1)), len(data) - 1}:
        path.write_bytes(data[:length])
        sentence(path)


def test_flipped_bytes_never_give_another_exception(tmp_path):
    path = tmp_path / "flip.pth"
    generator = torch.Generator().manual_seed(0)
    for kind in ("zip", "legacy", "safetensors"):
        if kind == "safetensors":
            save_file(TENSORS, path)
        else:
            torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "zip")
        data = path.read_bytes()
        for place in torch.randint(0, len(data), (60,), generator=generator).tolist():
            flipped = bytearray(data)
            flipped[place] ^= 0xFF
            path.write_bytes(flipped)
            try:
                assert isinstance(read_checkpoint_file(path), dict)
            except WeightsError as error:
                assert "\n" not in str(error)


def test_a_flipped_bit_in_a_tensor_is_found(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(TENSORS, path)
    data = bytearray(path.read_bytes())
    place = data.index(TENSORS["a.weight"].numpy().tobytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    assert "wrong checksum" in sentence(path)


def test_files_written_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_checkpoint_file(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "is empty"),
        (b"hello, this is text", "neither"),
        (b"\x00" * 5000, "neither"),
        (b"\xff\xd8\xff\xe0 a JPEG", "neither"),
        (b"  <!DOCTYPE html><html>Google Drive - Virus scan warning", "browser"),
        (b"<HTML><head>", "browser"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "git lfs pull"),
        (b'{"json": 1, "no": "weights"}', "neither"),
        (b"PK\x03\x04 no archive", "damaged"),
        (b"\x80\x02junk", "damaged"),
        (b"\xff" * 8 + b'{"a": 1}', "neither"),
        (b"\x80\x10" + b"\x00" * 6 + b'{"a": 1', "damaged"),
    ],
)
def test_files_without_weights(tmp_path, content, hint):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert hint in sentence(path)


def test_missing_files(tmp_path):
    assert "does not exist" in sentence(tmp_path / "missing.pth")
    assert "is a folder; pass the path" in sentence(tmp_path)
    (tmp_path / "last.pt").touch()
    (tmp_path / "best.pt").touch()
    assert "such as best.pt" in sentence(tmp_path)
    (tmp_path / "link.pth").symlink_to(tmp_path / "gone")
    assert "does not exist" in sentence(tmp_path / "link.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a regular file" in sentence(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint_file(tmp_path / ("x" * 300))


@pytest.mark.parametrize("content", [torch.ones(2), [TENSORS], 3, None])
def test_not_a_dictionary(tmp_path, content):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    assert "dictionary of tensors" in sentence(path)


def test_a_torchscript_program_is_refused(tmp_path):
    path = tmp_path / "script.pth"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), path)
    assert "TorchScript" in sentence(path)


def test_a_decompression_bomb_is_refused_before_it_is_read(tmp_path):
    stored, path = io.BytesIO(), tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(5_000_000)}, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert path.stat().st_size < 100_000
    assert "compressed" in sentence(path)


def test_safetensors_of_this_project_are_read_as_their_checkpoint(tmp_path):
    path = tmp_path / "best.safetensors"
    facts = {"model": {"name": "rexnet_100"}, "classes": ["katze", "h\u00f6hle"], "metrics": {"top1": 0.5}}
    save_file(TENSORS, path, {"format": CHECKPOINT_FORMAT, **{key: json.dumps(value) for key, value in facts.items()}})
    content = read_checkpoint_file(path)
    assert {key: content[key] for key in facts} == facts
    assert content["format"] == CHECKPOINT_FORMAT and same(extract_state_dict(content))

    save_file(TENSORS, path, {"format": "pt"})
    assert same(read_checkpoint_file(path))
    save_file(TENSORS, path, {"format": CHECKPOINT_FORMAT, "classes": "[broken"})
    assert "damaged" in sentence(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"state_dict": t, "epoch": 3, "optimizer": {"state": {}}},
        lambda t: {"model": t, "args": {"lr": 0.1}},
        lambda t: {"model_state_dict": t},
        lambda t: {"state_dict_ema": t, "state_dict": {key: value + 1 for key, value in t.items()}},
        lambda t: {"model_ema": {"n_averaged": torch.tensor(5), **{f"module.{key}": t[key] for key in t}}, "model": {}},
        lambda t: {f"module.{key}": value for key, value in t.items()},
        lambda t: {"state_dict": {f"module._orig_mod.{key}": value for key, value in t.items()}},
        lambda t: {"state_dict": {f"_orig_mod.module.{key}": value for key, value in t.items()}},
        lambda t: {"state_dict": {f"model.{key}": value for key, value in t.items()}},
        lambda t: {"format": CHECKPOINT_FORMAT, "model": {"name": "rexnet_100"}, "state_dict": t, "classes": ["a"]},
    ],
)
def test_wrappers_are_removed(wrap):
    assert same(extract_state_dict(wrap(TENSORS)))


def test_a_prefix_is_removed_only_if_all_keys_have_it():
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert extract_state_dict(mixed).keys() == mixed.keys()


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"state_dict": {}}, {"a": torch.ones(1), "b": 3}, {1: torch.ones(1)}]
)
def test_dictionaries_without_a_state_dict(content):
    with pytest.raises(WeightsError, match=r"^x\.pth contains no state dict"):
        extract_state_dict(content, source="x.pth")


def test_a_later_format_is_named():
    with pytest.raises(WeightsError, match="rexnet-checkpoint/9"):
        extract_state_dict({"format": "rexnet-checkpoint/9", "state_dict": TENSORS}, source="x.pt")
