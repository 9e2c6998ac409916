import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rexnet import cli
from rexnet.data.boxes.shape_drawings import draw_shapes
from rexnet.data.boxes.transforms import DetectionAugmentConfig
from rexnet.detection import train as training
from rexnet.detection.config import DetectorOptions, DetectTrainConfig
from rexnet.detection.detector_files import load_detector
from rexnet.detection.recipes import make_recipe
from rexnet.detection.train import build_model, train
from rexnet.models.weights import WeightsError
from rexnet.training import checkpoint
from rexnet.training.config import OptimConfig, RunConfig, ScheduleConfig
from rexnet.training.run_folder import RunFolder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    draw_shapes(folder, images=8, seed=0, size_px=64)
    return folder


@pytest.fixture
def config(shapes, tmp_path) -> DetectTrainConfig:
    """A whole run of the smallest detector in seconds, with everything random switched on."""
    return DetectTrainConfig(
        data=str(shapes),
        network=DetectorOptions(detector="ssdlite", model="rexnet_010", min_size=64),
        augment=DetectionAugmentConfig(iou_crop=True),
        optim=OptimConfig(lr=0.01, lr_batch=0, clip_grad=10.0, ema_decay=0.9),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5),
        run=RunConfig(batch_size=3, seed=3, device="cpu", workers=0, output=str(tmp_path / "run")),
    )


@pytest.fixture(scope="session")
def trained(shapes, tmp_path_factory) -> Path:
    """The run folder of a Mask R-CNN, hardly trained; nobody writes into it."""
    output = tmp_path_factory.mktemp("detector") / "run"
    network = DetectorOptions(detector="mask_rcnn", model="rexnet_010", min_size=64, max_size=64, proposals=16)
    run = RunConfig(batch_size=4, device="cpu", output=str(output))
    train(DetectTrainConfig(data=str(shapes), network=network, schedule=ScheduleConfig(epochs=1), run=run))
    return output


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


def test_the_run_folder_names_what_was_trained(trained, shapes):
    run = RunFolder(trained)
    assert run.read("data.json")["classes"] == list(load_detector(run.best).classes)
    assert run.read("summary.json")["goal"] == "mask_ap" and run.holds("curves.png")
    (row,) = run.rows()
    assert {"train_loss_mask", "train_loss_objectness", "val_box_ap", "val_mask_ap50", "val_images"} <= row.keys()
    assert row["val_images"] == 2


def test_a_checkpoint_rebuilds_the_detector(trained):
    detector = load_detector(trained / "best.pt")
    content = checkpoint.read(trained / "best.pt")
    state = detector.model.state_dict()
    assert all(torch.equal(state[name], values) for name, values in content["state_dict"].items())
    assert not detector.model.training and detector.category_ids == tuple(content["category_ids"])


def test_classifiers_and_detectors_are_told_apart(trained, trained_run):
    with pytest.raises(WeightsError, match="holds a classifier, no detector; `rexnet predict` takes it"):
        load_detector(trained_run / "best.pt")
    with pytest.raises(WeightsError, match="holds a detector; `rexnet detect` takes it"):
        checkpoint.load(trained / "best.pt")


def test_starts_from_a_detector(trained, shapes, config, tmp_path, caplog):
    caplog.set_level("INFO")
    options = DetectorOptions(
        detector="mask_rcnn",
        model="rexnet_010",
        min_size=64,
        max_size=64,
        proposals=16,
        weights=str(trained / "best.pt"),
    )
    theirs = weights(trained, "best.pt")
    classes = load_detector(trained / "best.pt").classes
    same = build_model(options, classes).state_dict()
    assert all(torch.equal(same[name], values) for name, values in theirs.items())
    other = build_model(options, ("one", "two", "three", "four")).state_dict()
    changed = {name for name, values in theirs.items() if not torch.equal(other[name], values)}
    assert {name.rpartition(".")[0] for name in changed} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    }
    assert f"{len(theirs) - len(changed)} of {len(theirs)} tensors of the detector loaded" in caplog.text
    with pytest.raises(WeightsError, match="kind mask_rcnn, but faster_rcnn is to be trained"):
        build_model(replace(options, detector="faster_rcnn"), classes)


def test_an_unusable_set_leaves_no_run(config, tmp_path):
    with pytest.raises(ValueError, match="no annotation file for train"):
        train(replace(config, data=str(tmp_path)))
    with pytest.raises(ValueError, match="no data given"):
        train(replace(config, data=""))
    assert not Path(config.run.output).exists()


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "ssdlite"])
@pytest.mark.parametrize("name", ["small", "1x", "2x", "3x"])
def test_recipes_are_for_their_detector(kind, name):
    recipe = make_recipe(name, kind, data="d")
    assert recipe.network.detector == kind and recipe.recipe == name and recipe.data == "d"
    recipe.check()
    assert all(milestone < recipe.schedule.epochs for milestone in recipe.schedule.decay_milestones or ())


@pytest.mark.slow
def test_commands(trained, shapes, tmp_path, capsys):
    found = tmp_path / "found.json"
    cli.main(["detect", "validate", str(trained / "best.pt"), str(shapes), "--output", str(found)])
    said = capsys.readouterr().out
    assert "2 images  box AP" in said and json.loads(found.read_text())["figures"]["images"] == 2
    pictures = shapes / "val"
    out = tmp_path / "drawn"
    words = ["detect", "predict", str(trained / "best.pt"), str(pictures), "--out", str(out), "--min-score", "0"]
    cli.main(words)
    names = sorted(path.stem for path in pictures.iterdir())
    assert sorted(path.stem for path in out.glob("*.jpg")) == names
    rows = json.loads((out / "detections.json").read_text())
    assert {row["image_id"] for row in rows} <= set(map(int, names)) and all(row["segmentation"] for row in rows)
    assert capsys.readouterr().out.count(".png: ") == len(names)
    for bad, sentence in (
        ([*words[:4], "--out", str(pictures)], "is a folder that images are read from"),
        ([*words, "--min-score", "2"], "--min-score is 2.0; allowed: from 0 to 1"),
        (["detect", "train"], "no data given"),
        (
            ["detect", "train", str(shapes), "--detector", "ssdlite", "--proposals", "50"],
            "--proposals is 50, but ssdlite",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(bad)
        assert stop.value.code in (1, 2) and sentence in capsys.readouterr().err
