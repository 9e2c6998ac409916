import copy
import errno
import os
import pickle
import random
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch

import rexnet
from rexnet.data.preprocess import Preprocess
from rexnet.errors import WeightsError
from rexnet.models.factory import create_model
from rexnet.training import checkpoint

CLASSES = ("cat", "Hund", "狐")


@pytest.fixture
def content(tiny_model, tiny_preprocess):
    return checkpoint.pack(tiny_model(), {"val_top1": 66.5}, classes=CLASSES, preprocess=tiny_preprocess)


@pytest.fixture
def saved(content, tmp_path) -> Path:
    checkpoint.save(tmp_path / "best.pt", content)
    return tmp_path / "best.pt"


def refusal(path) -> str:
    """The sentence with which `load` refuses a file; it names the file and is a single line."""
    with pytest.raises(WeightsError) as refused:
        checkpoint.load(path)
    sentence = str(refused.value)
    assert str(path) in sentence and "\n" not in sentence, sentence
    return sentence


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_load_rebuilds_the_model_from_the_file_alone(tiny_model, tiny_preprocess, content, tmp_path, suffix):
    path = tmp_path / f"best{suffix}"
    checkpoint.save(path, {**content, "training": {"optimizer": [1, 2]}} if suffix == ".pt" else content)
    model = rexnet.load(str(path))
    original = tiny_model().eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(images), original(images))
    assert (model.classes, model.preprocess, model.config) == (CLASSES, tiny_preprocess, original.config)
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert copy.deepcopy(model).classes == CLASSES


def test_both_kinds_of_file_give_the_same_logits_after_channels_last_training(tmp_path):
    torch.manual_seed(0)
    model = create_model("rexnet", width=0.2, stem_stride=1, num_classes=3).to(memory_format=torch.channels_last)
    content = checkpoint.pack(model, {}, classes=CLASSES, preprocess=Preprocess(image_size_px=24))
    for name in ("best.pt", "best.safetensors"):
        checkpoint.save(tmp_path / name, content)
    first, second = (rexnet.load(tmp_path / name) for name in ("best.pt", "best.safetensors"))
    images = torch.randn(2, 3, 24, 24)
    assert torch.equal(first(images), second(images))
    assert {value.data_ptr() % 64 for value in second.state_dict().values()} == {0}


@pytest.mark.parametrize(
    "make",
    [
        partial(create_model, "rexnet", width=0.37, stem_stride=1),
        partial(create_model, "rexnetr", width=0.3, output_stride=8),
        partial(create_model, "rexnet_lite", width=0.2),
        partial(create_model, "rexnet_plain"),
    ],
)
def test_every_family_is_restored(make, tmp_path):
    model = make(num_classes=3)
    checkpoint.save(
        tmp_path / "m.pt", checkpoint.pack(model, {}, classes=CLASSES, preprocess=Preprocess(image_size_px=40))
    )
    loaded = checkpoint.load(tmp_path / "m.pt")
    images = torch.randn(1, 3, 40, 40)
    assert torch.equal(loaded(images), model.eval()(images))
    assert (loaded.name, loaded.config) == (model.name, model.config)


def test_loading_leaves_the_random_state_alone(saved):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    checkpoint.load(saved)
    assert torch.equal(state, torch.get_rng_state())


def test_a_replaced_classifier_is_saved(tiny_model, tiny_preprocess, tmp_path):
    model = tiny_model()
    model.reset_classifier(2)
    checkpoint.save(tmp_path / "m.pt", checkpoint.pack(model, {}, classes=("a", "b"), preprocess=tiny_preprocess))
    assert checkpoint.load(tmp_path / "m.pt").num_classes == 2


def test_memory_layout_of_training_does_not_reach_the_file(tiny_model, tiny_preprocess):
    model = tiny_model().to(memory_format=torch.channels_last)
    state = checkpoint.pack(model, {}, classes=CLASSES, preprocess=tiny_preprocess)["state_dict"]
    assert all(tensor.is_contiguous() for tensor in state.values())
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert state["features.0.weight"].any(), "the content must be a copy"


def test_a_file_truncated_anywhere_is_refused_in_one_sentence(saved):
    whole = saved.read_bytes()
    for size in {0, 1, 3, 100, 511, len(whole) // 3, len(whole) - 4000, len(whole) - 30, len(whole) - 1}:
        saved.write_bytes(whole[:size])
        refusal(saved)


def test_flipped_bits_are_found_or_harmless(saved, content):
    whole, draw = saved.read_bytes(), random.Random(0)
    found = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        saved.write_bytes(damaged)
        try:
            read = checkpoint.read(saved)
        except WeightsError as error:
            assert "\n" not in str(error)
            found += 1
            continue
        assert read.keys() == content.keys()
        assert all(torch.equal(read["state_dict"][key], value) for key, value in content["state_dict"].items())
    assert found > 50


def test_a_flipped_bit_in_a_weight_is_found(saved, content):
    data = content["state_dict"]["features.0.weight"].numpy().tobytes()
    whole = bytearray(saved.read_bytes())
    whole[bytes(whole).index(data) + 5] ^= 1
    saved.write_bytes(whole)
    assert "damaged" in refusal(saved)


def test_the_error_for_a_damaged_file_names_the_other_checkpoints(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    assert refusal(saved).endswith("; download or save it again"), "a file that was copied out of its run"
    for name in ("config.json", "last.pt", "previous.pt"):
        (saved.parent / name).touch()
    assert f"; `rexnet train --resume {saved.parent}` continues from last.pt beside it" in refusal(saved)
    assert "from previous.pt beside it" in refusal(saved.with_name("last.pt"))
    (saved.parent / "config.json").write_text('\ufeff{"network": {"detector": "ssdlite"}}', encoding="utf-8")
    moved = saved.parent.rename(saved.parent.with_name("it's mine"))
    (command,) = re.findall("`(.*)`", refusal(moved / saved.name))
    assert shlex.split(command) == ["rexnet", "detect", "train", "--resume", str(moved)]


class _Attack:
    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self):
        return (Path.touch, (self.sentinel,))


@pytest.mark.parametrize("where", ["whole", "metrics", "training", "state_dict"])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_malicious_file_is_refused_before_anything_runs(content, tmp_path, where, legacy):
    path, attack = tmp_path / "evil.pt", _Attack(tmp_path / "sentinel")
    torch.save(
        attack if where == "whole" else {**content, where: attack}, path, _use_new_zipfile_serialization=not legacy
    )
    assert "code" in refusal(path)
    path.write_bytes(pickle.dumps({**{k: v for k, v in content.items() if k != "state_dict"}, where: attack}))
    refusal(path)
    assert not attack.sentinel.exists()


def test_files_of_other_kinds_are_named(tmp_path, tiny_model):
    folder, text, foreign, tensor = (tmp_path / name for name in ("folder", "a.pt", "official.pth", "tensor.pt"))
    folder.mkdir()
    text.write_text("not a checkpoint")
    torch.save(tiny_model().state_dict(), foreign)
    torch.save(torch.zeros(3), tensor)
    for path in (folder, text, tensor, tmp_path / "missing.pt"):
        refusal(path)
    assert "create_model" in refusal(foreign)


@pytest.mark.parametrize(
    "spoil",
    [
        {"model": None},
        {"model": {"name": "x"}},
        {"classes": ["a", "b"]},
        {"classes": [1, 2, 3]},
        {"classes": None},
        {"preprocess": {"image_size_px": 16}},
        {"preprocess": {}},
        {"state_dict": {}},
        {"state_dict": {"features.0.weight": torch.zeros(1)}},
    ],
)
def test_a_contradictory_checkpoint_is_refused_in_one_sentence(content, tmp_path, spoil):
    torch.save({**content, **spoil}, tmp_path / "odd.pt")
    refusal(tmp_path / "odd.pt")


def test_a_file_that_claims_a_gigantic_network_costs_no_memory(content, tmp_path):
    huge = copy.deepcopy(content)
    huge["model"]["penultimate_channels"] = 10**9
    torch.save(huge, tmp_path / "huge.pt")
    refusal(tmp_path / "huge.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failing_disk_leaves_only_the_old_file(content, tmp_path, monkeypatch, suffix, broken):
    path = tmp_path / f"best{suffix}"
    checkpoint.save(path, content)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(WeightsError, match="No space left on device") as refused:
        patch.setattr(os, broken, fail)
        checkpoint.save(path, {**content, "metrics": {"val_top1": 99.0}})
    assert str(path) in str(refused.value)
    assert path.read_bytes() == before and [child.name for child in tmp_path.iterdir()] == [path.name]
    checkpoint.save(path, content)


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_kill_while_saving_leaves_the_old_file_or_the_new(content, saved, monkeypatch, at):
    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    before = saved.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, at, kill)
        checkpoint.save(saved, {**content, "metrics": {"val_top1": 99.0}})
    assert saved.read_bytes() == before
    checkpoint.save(saved, {**content, "metrics": {"val_top1": 99.0}})
    assert checkpoint.read(saved)["metrics"] == {"val_top1": 99.0}
    assert [child.name for child in saved.parent.iterdir()] == [saved.name]


def test_saving_to_a_missing_folder_is_refused_in_one_sentence(content, tmp_path):
    with pytest.raises(WeightsError, match="missing"):
        checkpoint.save(tmp_path / "missing" / "best.pt", content)
