import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rexnet import cli, create_model
from rexnet.data.boxes.loaders import DetectionBatch
from rexnet.data.config import DetectionAugmentConfig
from rexnet.detection import train as training
from rexnet.detection.checkpoints import load_detector
from rexnet.detection.config import DetectorOptions, DetectTrainConfig
from rexnet.detection.train import build_model, train
from rexnet.training import checkpoint
from rexnet.training.config import RunConfig, ScheduleConfig
from rexnet.training.run_folder import RunFolder
from tests.coco_files import annotation, image_entry, many_images, write_side


def weights(run: Path | str, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return checkpoint.read(Path(run, name))["state_dict"]


def at(config: DetectTrainConfig, output: Path, **run) -> DetectTrainConfig:
    return replace(config, run=replace(config.run, output=str(output), **run))


@pytest.mark.slow
def test_killed_inside_an_epoch_and_resumed_equals_uninterrupted(config, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    calls = iter(range(100))
    real = training.detection_loss

    def until_killed(*args, **kwargs):
        if next(calls) == 4:
            raise Killed
        return real(*args, **kwargs)

    straight = train(at(config, tmp_path / "straight"))
    killed = at(config, tmp_path / "killed", save_minutes=1e-9)
    with monkeypatch.context() as patch:
        patch.setattr(training, "detection_loss", until_killed)
        with pytest.raises(Killed):
            train(killed)
    assert checkpoint.read(tmp_path / "killed" / "last.pt")["training"]["step"] > 0
    resumed = train(at(config, tmp_path / "killed", resume=True))
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "killed")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    timed = {"seconds", "images_per_second", "wait_share"}
    assert {name: straight["best"][name] for name in straight["best"].keys() - timed} == {
        name: resumed["best"][name] for name in resumed["best"].keys() - timed
    }


@pytest.mark.slow
def test_mask_rcnn_killed_by_the_machine_and_resumed_equals_uninterrupted(shapes, tmp_path):
    words = (
        "--detector mask_rcnn --model rexnet_010 --min-size 64 --max-size 96 --proposals 16 --epochs 2 --batch-size 2"
    )
    words += " --short-side-px 48 64 --long-side-px 96 --device cpu --threads 1 --workers 1 --save-minutes 1e-9"
    command = [sys.executable, "-m", "rexnet", "detect", "train"]
    options = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    begin = [*command, str(shapes), *words.split(), "--output"]
    subprocess.run([*begin, "straight"], check=True, **options)
    with subprocess.Popen([*begin, "killed"], **options) as process:
        last = tmp_path / "killed" / "last.pt"
        while process.poll() is None and not (last.exists() and checkpoint.read(last)["training"]["step"] > 1):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    subprocess.run([*command, "--resume", "killed"], check=True, **options)
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "killed")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    figures = [
        [{name: value for name, value in row.items() if name.startswith(("train_", "val_"))} for row in run.rows()]
        for run in (RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "killed"))
    ]
    assert figures[0] == figures[1] and len(figures[0]) == 2


def test_the_command_refuses_options_without_effect(shapes, capsys):
    for bad, sentence in (
        (["detect", "train"], "no data given"),
        (
            ["detect", "train", str(shapes), "--detector", "ssdlite", "--proposals", "50"],
            "--proposals is 50, but ssdlite",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(bad)
        assert stop.value.code in (1, 2) and sentence in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_score_every_image_once(shapes, tmp_path):
    words = "--detector ssdlite --model rexnet_010 --min-size 64 --epochs 1 --batch-size 2 --device cpu --output run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "rexnet", "detect", "train", str(shapes), *words.split()),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = RunFolder(tmp_path / "run").rows()
    assert row["val_images"] == 2 and "val_box_ap" in row
    assert done.stderr.count("run folder: ") == 1, "one process tells what happens"
    assert checkpoint.read(tmp_path / "run" / "last.pt")["training"]["processes"] == 2


def test_the_run_folder_records_the_trained_layers(trained, shapes):
    run = RunFolder(trained)
    assert run.read("data.json")["classes"] == list(load_detector(run.best).classes)
    assert run.read("summary.json")["goal"] == "mask_ap" and run.holds("curves.png")
    (row,) = run.rows()
    assert {"train_loss_mask", "train_loss_objectness", "val_box_ap", "val_mask_ap50", "val_images"} <= row.keys()
    assert row["val_images"] == 2


def test_the_log_reports_norms_and_loaded_weights(shapes, tmp_path, caplog):
    caplog.set_level("INFO")
    torch.save(create_model("rexnet_010").state_dict(), tmp_path / "classifier.pth")
    network = DetectorOptions(
        detector="ssdlite", model="rexnet_010", min_size=64, weights=str(tmp_path / "classifier.pth")
    )
    run = RunConfig(batch_size=8, device="cpu", output=str(tmp_path / "run"))
    train(DetectTrainConfig(data=str(shapes), network=network, schedule=ScheduleConfig(epochs=1), run=run))
    body = build_model(network, ("a",)).get_submodule("backbone.body.network")
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    assert f"{len(body.state_dict())} of {len(body.state_dict())} backbone tensors loaded from" in caplog.text
    assert f"batch norms: {norms} with frozen statistics" in caplog.text
    assert "(auto: pretrained weights, 8 images per process and batch)" in caplog.text
    before, after = torch.load(tmp_path / "classifier.pth"), weights(tmp_path / "run")
    statistics = [name for name in body.state_dict() if "running" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(after[f"backbone.body.network.{name}"], before[name])


def test_accumulated_batches_are_one_step(config, tmp_path):
    config = replace(config, optim=replace(config.optim, optimizer="adamw"))
    train(at(config, tmp_path / "run", batch_size=2, accumulate=3))
    content = checkpoint.read(tmp_path / "run" / "last.pt")
    steps = [int(state["step"]) for state in content["training"]["updater"]["optimizer"]["state"].values()]
    assert set(steps) == {2 * config.schedule.epochs}, "4 batches an epoch, 3 and 1 of them a step"


def test_full_memory_names_the_image_with_the_most_objects():
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    batch = DetectionBatch(
        [torch.zeros(3, 8, 8)] * 3, [{"boxes": torch.zeros(n, 4)} for n in (2, 1000, 0)], torch.tensor([5, 1, 7])
    )
    with pytest.raises(ValueError, match=r"1,002 objects, 1,000 of them in 1\.jpg; a smaller --batch-size"):
        training.detection_loss(full, batch, device=torch.device("cpu"), name_image=lambda index: f"{index}.jpg")


def test_an_unusable_set_leaves_no_run(config, tmp_path):
    with pytest.raises(ValueError, match="without annotations in COCO"):
        train(replace(config, data=str(tmp_path)))
    with pytest.raises(ValueError, match="no data given"):
        train(replace(config, data=""))
    many_images(tmp_path, 3)
    write_side(tmp_path, "val", [image_entry(1)], [annotation(1)])
    masks = replace(config.network, detector="mask_rcnn", max_size=64)
    with pytest.raises(
        ValueError, match=r"validation images .* no masks, .*; --detector faster_rcnn and ssdlite do not need masks"
    ):
        train(replace(config, data=str(tmp_path), network=masks, augment=DetectionAugmentConfig()))
    write_side(tmp_path, "train", [image_entry(1, 24, 36)], [])
    with pytest.raises(ValueError, match="training images have no object"):
        train(replace(config, data=str(tmp_path)))
    write_side(tmp_path, "train", [image_entry(1, 24, 36), image_entry(9, missing=True)], [annotation(1)])
    with pytest.raises(ValueError, match=r"1 of 2 images .* are missing; --bad-image skip"):
        train(replace(config, data=str(tmp_path)))
    with pytest.raises(ValueError, match="nowhere is not a dataset name"):
        train(replace(config, data=str(tmp_path / "nowhere")))
    assert not Path(config.run.output).exists()
