import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import rexnet
from rexnet.deploy.config import ValidateConfig
from rexnet.deploy.validate import validate
from rexnet.errors import BadImageError
from rexnet.models.factory import create_model
from rexnet.training import checkpoint
from rexnet.training.classify import build_model, train
from rexnet.training.config import NetworkConfig, TrainConfig
from rexnet.training.distributed import World
from rexnet.training.resume import config_from_dict, config_to_dict
from rexnet.training.run_folder import RunFolder
from rexnet.training.session import choose_workers


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: weights, average, optimizer state."""
    found = {}

    def visit(value, name):
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict | list | tuple):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                visit(inner, f"{name}/{key}")

    visit(checkpoint.read(path), "")
    return found


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = weights_of(first), weights_of(second)
    assert one.keys() == two.keys() and len(one) > 100
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


def figures(run: RunFolder) -> list[dict]:
    """The rows without what the clock says."""
    clock = ("seconds", "images_per_second", "wait_share")
    return [{key: value for key, value in row.items() if key not in clock} for row in run.rows()]


@pytest.fixture
def at(tiny_config, tmp_path, changed):
    """at("name"): the tiny config with another run folder."""
    return lambda name, **run: changed(tiny_config, "run", output=str(tmp_path / name), **run)


@pytest.mark.seconds
def test_a_run_leaves_everything_it_promises(tiny_config, image_folder, caplog):
    caplog.set_level(logging.INFO)
    summary = train(tiny_config)
    run = RunFolder(tiny_config.run.output)
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        *("config.json", "environment.json", "data.json", "metrics.jsonl", "summary.json", "curves.png"),
        *("best.pt", "last.pt", "previous.pt", ".lock"),
    }
    assert summary == run.read("summary.json") and summary["run"] == str(run.path)
    assert summary["best"] == max(run.rows(), key=lambda row: row["val_top1"])
    assert summary["best"]["val_images"] == 12 and summary["skipped"] == []
    assert "36 train / 12 val images of 3 classes" in caplog.text and "epoch 3/3" in caplog.text
    assert (
        "rexnet_010: " in caplog.text
        and "M parameters, " in caplog.text
        and "M MACs at 16 px, stem stride 1\n" in caplog.text
    )
    assert "val_top1" in caplog.text and "val_top5" not in caplog.text, "it is always 100 % of three classes"
    assert "padding" not in caplog.text, "16 pixels fill the one cell of the last feature map"

    model = rexnet.load(run.best)
    assert model.classes == ("cat", "dog", "fox") and model.preprocess == tiny_config.input.preprocess()
    found = validate(ValidateConfig(checkpoint=str(run.best), data=str(image_folder), device="cpu", batch_size=5))
    assert found["top1"] == summary["best"]["val_top1"] and found["images"] == 12
    assert found["loss"] == pytest.approx(summary["best"]["val_loss"], rel=1e-5)


def test_images_smaller_than_the_stride_are_logged_once(tiny_config, changed, caplog):
    config = changed(changed(tiny_config, "schedule", epochs=1), "input", image_size=8)
    train(config)
    said = [message for message in caplog.messages if "padding" in message]
    assert len(said) == 1 and said[0].startswith("--image-size 8 is below the stride of rexnet_010, 16, ")
    assert said[0].endswith("; use 32 or more")


@pytest.mark.seconds
@pytest.mark.parametrize("mixed", [False, True])
def test_the_number_of_workers_changes_nothing(tiny_config, at, changed, mixed):
    if mixed:
        tiny_config = changed(tiny_config, "augment", mixup=0.4, cutmix=1.0)
    for name, workers in (("alone", 0), ("helped", 2)):
        train(replace(tiny_config, run=at(name, workers=workers).run))
    alone, helped = Path(at("alone").run.output), Path(at("helped").run.output)
    assert_same_weights(alone / "last.pt", helped / "last.pt")


PROGRAM = """
import json, os, signal, sys
import torch
from rexnet.training import classify
from rexnet.training.config import TrainConfig
from rexnet.training.resume import config_from_dict

torch.set_num_threads(1)
config, kill_at = config_from_dict(TrainConfig, json.loads(sys.argv[1])), int(sys.argv[2])
plain_loss, calls = classify.classification_loss, iter(range(10**6))

def loss(*args, **kwargs):
    if next(calls) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain_loss(*args, **kwargs)

classify.classification_loss = loss
classify.train(config)
"""


@pytest.mark.slow
@pytest.mark.parametrize("save_minutes", [1e-9, 10.0], ids=["each step", "each epoch"])
def test_sigkill_and_resume_end_with_the_weights_of_an_uninterrupted_run(at, save_minutes):
    straight, killed = at("straight"), at("killed", workers=1, save_minutes=save_minutes)
    train(straight)
    # 5 steps an epoch: the kill comes in the middle of the second.
    program = [sys.executable, "-c", PROGRAM, json.dumps(config_to_dict(killed)), "7"]
    done = subprocess.run(program, timeout=300, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    run = RunFolder(killed.run.output)
    assert len(run.rows()) == 1 and not run.holds("summary.json")
    train(replace(killed, run=replace(killed.run, resume=True, workers=0)))
    assert_same_weights(Path(straight.run.output) / "last.pt", run.last)
    assert [row["epoch"] for row in run.rows()] == [1, 2, 3]


@pytest.mark.seconds
def test_a_kill_before_the_first_checkpoint_starts_over(at, monkeypatch):
    config = at("run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", _interrupt)
        train(config)
    train(replace(config, run=replace(config.run, resume=True)))
    train(at("straight"))
    assert_same_weights(Path(at("straight").run.output) / "last.pt", Path(config.run.output) / "last.pt")


def _interrupt(*args, **more):
    raise KeyboardInterrupt


@pytest.mark.seconds
@pytest.mark.parametrize("state", ["missing", "damaged and was renamed to best.pt.damaged"])
def test_a_finished_run_without_best_pt_is_reported(trained_run, tmp_path, state, caplog):
    run = RunFolder(shutil.copytree(trained_run, tmp_path / "run"))
    config = config_from_dict(TrainConfig, run.read("config.json"))
    again = replace(config, run=replace(config.run, resume=str(run.path), output=None))
    train(again)
    assert "holds the weights of the last epoch" not in caplog.text
    run.best.write_bytes(run.best.read_bytes()[:1000])
    if state == "missing":
        run.best.unlink()
    train(again)
    assert f"best.pt is {state}; {run.last} holds the weights of the last epoch" in caplog.text
    assert run.path.joinpath("best.pt.damaged").exists() == (state != "missing") and not run.best.exists()


@pytest.mark.seconds
def test_resume_refuses_other_data(at, image_folder):
    config = at("run")
    train(config)
    (image_folder / "train" / "cat" / "0.jpg").unlink()
    with pytest.raises(ValueError, match=r"35 train .* instead of .*36 train"):
        train(replace(config, run=replace(config.run, resume=True)))


@pytest.mark.seconds
def test_bad_images_stop_the_run_or_are_skipped_and_counted(at, changed, image_folder):
    bad = image_folder / "train" / "dog" / "0.jpg"
    bad.write_bytes(b"not an image")
    (image_folder / "val" / "fox" / "0.jpg").write_bytes(b"")
    with pytest.raises(BadImageError, match=r"dog/0\.jpg"):
        train(at("error"))
    for workers in (0, 2):
        summary = train(changed(at(f"skip {workers}", workers=workers), "input", bad_image="skip"))
        assert [Path(name).parts[-3:] for name in summary["skipped"]] == [
            ("train", "dog", "0.jpg"),
            ("val", "fox", "0.jpg"),
        ]
        assert summary["best"]["val_images"] == 11
    best = str(Path(at("skip 0").run.output) / "best.pt")
    found = validate(ValidateConfig(checkpoint=best, data=str(image_folder), bad_image="skip", device="cpu"))
    assert found["images"] == 11 and len(found["skipped"]) == 1
    with pytest.raises(BadImageError):
        validate(ValidateConfig(checkpoint=best, data=str(image_folder), device="cpu"))


def test_a_last_batch_of_one_image_trains(at, changed, image_folder):
    Image.new("RGB", (20, 20)).save(image_folder / "train" / "cat" / "one more.png")
    config = changed(at("run", batch_size=12), "schedule", epochs=1)
    assert len(list((image_folder / "train").rglob("*.*"))) % 12 == 1
    train(config)


@pytest.mark.seconds
def test_a_batch_size_above_the_number_of_images_is_reduced(at, caplog):
    """Learning rate, warm-up and average follow the images that a step has, whatever --batch-size asks for."""
    for name, size in (("asked", 1_000_000), ("existing", 36)):
        train(at(name, batch_size=size))
    assert_same_weights(*(Path(at(name).run.output, "last.pt") for name in ("asked", "existing")))
    assert "--batch-size is 1000000" in caplog.text and "36 training images" in caplog.text


@pytest.mark.seconds
def test_a_finished_run_is_extended_as_if_its_schedule_had_restarted(at, changed):
    """--resume with more --epochs: bit for bit the run that restarts there from the beginning."""
    train(at("extended"))
    with pytest.raises(ValueError, match=r"--lr 0\.1"):
        train(changed(changed(at("extended", resume=True), "schedule", epochs=5), "optim", lr=0.1))
    train(changed(at("extended", resume=True), "schedule", epochs=5))
    train(changed(at("straight"), "schedule", epochs=5, restart_epochs=(3,)))
    with pytest.raises(ValueError, match=r"--epochs is 2, .* has 5"):
        train(changed(at("extended", resume=True), "schedule", epochs=2, restart_epochs=(3,)))
    extended, straight = (RunFolder(at(name).run.output) for name in ("extended", "straight"))
    assert_same_weights(extended.last, straight.last)
    assert figures(extended) == figures(straight) and [row["lr"] for row in extended.rows()][3] > 0.02
    assert extended.read("config.json")["schedule"] == straight.read("config.json")["schedule"]


def test_an_unfinished_run_is_not_extended(at, changed, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("rexnet.training.classify.evaluate", _interrupt)
        train(at("run", save_minutes=1e-9))
    with pytest.raises(ValueError, match=r"--epochs 5 \(was 3\)"):
        train(changed(at("run", resume=True), "schedule", epochs=5))


def test_a_failed_start_leaves_no_folder(at, changed, tmp_path, monkeypatch):
    def fail(*args, **more):
        raise ValueError("no first step")

    kept = tmp_path / "kept"
    kept.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("rexnet.training.classify.classification_loss", fail)
        for name in ("new", "kept"):
            with pytest.raises(ValueError, match="no first step"):
                train(at(name))
    assert not (tmp_path / "new").exists() and [file.name for file in kept.iterdir()] in ([], [".lock"])


def test_nan_in_training_is_skipped_and_its_files_are_named(at, monkeypatch):
    from rexnet.training import classify

    plain_loss, calls = classify.classification_loss, iter(range(100))

    def loss(*args, **kwargs):
        values = plain_loss(*args, **kwargs)
        return {**values, "loss": values["loss"] * float("nan")} if next(calls) == 8 else values

    config = at("run")
    monkeypatch.setattr(classify, "classification_loss", loss)
    train(config)
    run = RunFolder(config.run.output)
    images = json.loads((run.path / "discarded_steps.jsonl").read_text())["images"]
    assert len(images) == 8 and all(Path(name).is_file() for name in images)
    assert [row.get("discarded_steps") for row in run.rows()] == [None, 1, None]


def test_weights_keep_their_classifier_if_the_class_names_agree(tiny_preprocess, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = create_model("rexnet", width=0.1, num_classes=3)
    path = tmp_path / "source.pt"
    checkpoint.save(path, checkpoint.pack(source, {}, classes=("a", "b", "e\u0301"), preprocess=tiny_preprocess))
    config = NetworkConfig(model="rexnet", width=0.1, weights=str(path))
    for classes, kept in ((("a", "b", "\u00e9"), True), (("a", "\u00e9", "b"), False), (("a", "b"), False)):
        model = build_model(config, classes)
        assert model.num_classes == len(classes)
        assert torch.equal(model.features[0].weight, source.features[0].weight)
        same = len(classes) == 3 and torch.equal(model.get_classifier().weight, source.get_classifier().weight)
        assert same == kept
    assert "tensors loaded" in caplog.text


def test_weights_of_another_network_are_refused_in_one_sentence(tiny_preprocess, tmp_path):
    path = tmp_path / "lite.pt"
    lite = create_model("rexnet_lite", width=0.2, num_classes=2)
    checkpoint.save(path, checkpoint.pack(lite, {}, classes=("a", "b"), preprocess=tiny_preprocess))
    with pytest.raises(ValueError) as refused:
        build_model(NetworkConfig(model="rexnet", width=0.1, weights=str(path)), ("a", "b"))
    assert "\n" not in str(refused.value) and "lite" in str(refused.value)


def test_a_malicious_checkpoint_never_runs(at, tmp_path):
    sentinel = tmp_path / "sentinel"

    class Attack:
        def __reduce__(self):
            return (Path.touch, (sentinel,))

    config = at("run")
    train(config)
    run = RunFolder(config.run.output)
    attack = tmp_path / "attack.pt"
    torch.save({**checkpoint.read(run.best), "training": Attack()}, attack)
    run.previous.unlink()
    shutil.copy(attack, run.last)
    with pytest.raises(ValueError, match="no checkpoint"):
        train(replace(config, run=replace(config.run, resume=True)))
    with pytest.raises(ValueError, match="code"):
        validate(ValidateConfig(checkpoint=str(attack), data=config.data))
    with pytest.raises(ValueError, match="code"):
        build_model(NetworkConfig(model="rexnet", width=0.1, weights=str(attack)), ("a", "b"))
    assert not sentinel.exists()


def test_no_workers_by_default_if_the_cpu_computes():
    assert choose_workers(None, World(device=torch.device("cpu"))) == 0
    assert choose_workers(3, World(device=torch.device("cpu"))) == 3
    assert 0 < choose_workers(None, World(device=torch.device("cuda"))) <= 8


@pytest.mark.slow
def test_two_processes_train_one_network_and_resume_exactly(at, tmp_path):
    """Both processes hold the same weights, their run differs from none that was killed and resumed."""
    config = at("two", batch_size=4)
    kill = at("killed", batch_size=4, save_minutes=1e-9)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    for run_config, kill_at, fails in (
        (config, 10**6, False),
        (kill, 7, True),
        (replace(kill, run=replace(kill.run, resume=True)), 10**6, False),
    ):
        arguments = [str(program), json.dumps(config_to_dict(run_config)), str(kill_at)]
        done = subprocess.run([*command, *arguments], timeout=400, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, done.stderr[-3000:]
        assert "Grad strides" not in done.stderr
    two, killed = RunFolder(config.run.output), RunFolder(kill.run.output)
    assert_same_weights(two.last, killed.last)
    assert figures(two) == figures(killed)
    assert two.read("environment.json")["processes"] == 2
    assert [row["val_images"] for row in two.rows()] == [12, 12, 12]


def test_environment_is_read_in_one_place_only():
    package = Path(rexnet.__file__).parent
    readers = {
        path.name for path in (package / "training").glob("*.py") if "os.environ" in path.read_text(encoding="utf-8")
    }
    assert readers == {"distributed.py"}
    assert os.environ is not None
