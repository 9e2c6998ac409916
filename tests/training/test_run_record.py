import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rexnet.errors import OptionError
from rexnet.training import classify
from rexnet.training.config import TrainConfig
from rexnet.training.resume import config_from_dict
from rexnet.training.run_folder import RunFolder
from rexnet.training.run_record import TimeSpent, changed_between, read_records


@pytest.fixture
def copy_of(trained_run, tmp_path):
    """copy_of("folder/name"): a copy of the trained run to change."""
    return lambda name: RunFolder(shutil.copytree(trained_run, tmp_path / name))


def test_a_run_is_read_completely(trained_run):
    (record,) = read_records([trained_run])
    assert record.label == "run" and record.finished and len(record.rows) == 8
    assert record.best == max(record.rows, key=lambda row: row["val_top1"]) and record.data.train_images == 96
    assert record.options()["run"]["recipe"] == "small-image" and record.options()["network"]["width"] == 0.2
    assert read_records([trained_run / "best.pt"])[0].folder.path == trained_run


def test_time_is_split_into_waiting_computing_and_validation(copy_of):
    run = copy_of("run")
    row = {"epoch": 1, "val_top1": 1.0, "images_per_second": 24.0, "wait_share": 0.25, "seconds": 5.0}
    (run.path / "metrics.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "epoch": 2}) + "\n")
    # 96 images at 24 a second: 4 seconds of training an epoch, one of them waiting, and one of validation.
    spent = read_records([run.path])[0].time_spent()
    assert (spent.waiting, spent.computing, spent.validating, spent.total) == (2.0, 6.0, 2.0, 10.0)
    (run.path / "data.json").unlink()
    spent = read_records([run.path])[0].time_spent()
    assert (spent.waiting, spent.computing, spent.validating, spent.total) == (2.5, 7.5, None, 10.0)


@pytest.mark.parametrize(
    ("seconds", "workers", "said"),
    [
        (
            (50.0, 50.0, 1.0),
            None,
            "Reading images is the bottleneck: training spent 50 % of its time waiting for them; smaller",
        ),
        ((50.0, 50.0, 1.0), 4, "more --workers"),
        ((1.0, 9.0, 10.0), 0, "Validation is the bottleneck: it took 50 % of the time"),
        ((1.0, 9.0, 1.0), 0, "computation is the bottleneck"),
        ((1.0, 9.0, None), 0, "computation is the bottleneck"),
        ((0.0, 0.0, 0.0), 0, "training spent 0 % of its time waiting for them"),
    ],
)
def test_the_bottleneck_is_named(seconds, workers, said):
    waiting, computing, validating = seconds
    assert said in TimeSpent(waiting=waiting, computing=computing, validating=validating).bottleneck(workers)


def test_only_options_that_differ_are_compared(copy_of):
    runs = [copy_of("one"), copy_of("two")]
    config = runs[1].read("config.json")
    config["optim"]["lr"] = 0.5
    config["run"]["output"] = "elsewhere"
    config["run"]["an_option_of_later"] = 1
    runs[1].write("config.json", config)
    changed = changed_between(read_records([run.path for run in runs]))
    assert changed == {"lr": [0.05, 0.5], "an_option_of_later": [None, 1]}


def test_labels_distinguish_runs(copy_of, tmp_path):
    paths = [copy_of(name).path for name in ("a/run", "b/run", "c")]
    assert [record.label for record in read_records(paths)] == [str(paths[0]), str(paths[1]), "c"]
    with pytest.raises(ValueError, match="given twice"):
        read_records([paths[0], tmp_path / "b" / ".." / "a" / "run"])


def test_a_folder_that_is_not_a_run_is_refused_in_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(OptionError, match="is not a run folder") as refused:
            read_records([path])
        assert "\n" not in str(refused.value)
    (tmp_path / "config.json").write_text('{"some": "tool"}')
    with pytest.raises(OptionError, match="no run settings"):
        read_records([tmp_path])


OLD_RUNS = Path(__file__).parent / "old_runs"
"""Made by version 0.1 (commit 5707041): a classifier stopped after the first step of its second epoch, and a detector;
data.json holds a sentence."""


def test_data_under_a_relative_path_is_found_from_any_folder(copy_of, tmp_path, monkeypatch):
    run = copy_of("run")
    images = tmp_path / "images"
    images.mkdir()
    run.write("config.json", {**run.read("config.json"), "data": "images"})
    run.write("data.json", {**run.read("data.json"), "path": str(images)})
    monkeypatch.chdir(tmp_path)
    assert read_records([run.path])[0].config["data"] == "images"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_records([run.path])[0].config["data"] == str(images)


def test_a_link_to_itself_is_not_a_run(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match="loop"):
        read_records([str(tmp_path / "loop")])


def test_runs_of_version_0_1_are_read():
    classifier, detector = read_records([OLD_RUNS / "classifier", OLD_RUNS / "detector"])
    assert (classifier.task, classifier.metric.name, classifier.finished) == ("classification", "top1", False)
    assert (classifier.data.train_images, classifier.data.val_images, len(classifier.data.classes)) == (200, 359, 10)
    assert classifier.best["epoch"] == 1
    assert (detector.task, detector.metric.name, detector.finished) == ("detection", "box_ap", True)
    assert (detector.data.train_objects, detector.data.category_ids) == (28, (3, 7, 8, 21))
    assert detector.best["val_box_ap"] == pytest.approx(0.21624, abs=1e-5) and detector.time_spent().validating > 0


def test_a_run_of_version_0_1_continues_where_it_stopped(tmp_path, monkeypatch):
    shutil.copytree(OLD_RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    before = read_records(["classifier"])[0]
    config = config_from_dict(TrainConfig, before.config)
    classify.train(replace(config, run=replace(config.run, resume="classifier", output=None)))
    (after,) = read_records(["classifier"])
    assert after.finished and after.rows[0] == before.rows[0] and [row["epoch"] for row in after.rows] == [1, 2, 3]
    # As version 0.1 went on; the last digits depend on the processor.
    losses = [row["train_loss"] for row in after.rows]
    assert losses == pytest.approx([2.30635, 2.28299, 2.26758], abs=2e-3)
    assert "description" in after.folder.read("data.json")


def test_the_metric_of_a_detector_follows_what_is_measured(tmp_path):
    run = RunFolder(shutil.copytree(OLD_RUNS / "detector", tmp_path / "masks"))
    rows = [{**row, "val_mask_ap": 10.0 - row["epoch"]} for row in run.rows()]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (record,) = read_records([run.path])
    assert record.metric.name == "mask_ap" and record.best["epoch"] == 1
