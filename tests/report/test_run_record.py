import json
import shutil

import pytest

from rexnet.report.run_record import TimeSpent, changed_between, read_records
from rexnet.training.run_folder import RunFolder


@pytest.fixture
def copy_of(trained_run, tmp_path):
    """copy_of("folder/name"): a copy of the trained run to change."""
    return lambda name: RunFolder(shutil.copytree(trained_run, tmp_path / name))


def test_a_run_is_read_whole(trained_run):
    (record,) = read_records([trained_run])
    assert record.label == "run" and record.finished and len(record.rows) == 8
    assert record.best == max(record.rows, key=lambda row: row["val_top1"]) and record.train_images == 96
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
            "Reading images is the bottleneck: training waited for them 50 % of its time; smaller",
        ),
        ((50.0, 50.0, 1.0), 4, "more --workers"),
        ((1.0, 9.0, 10.0), 0, "Validation is the bottleneck: it took 50 % of the time"),
        ((1.0, 9.0, 1.0), 0, "computation is the bottleneck"),
        ((1.0, 9.0, None), 0, "computation is the bottleneck"),
        ((0.0, 0.0, 0.0), 0, "training waited for them 0 % of its time"),
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


def test_labels_tell_runs_apart(copy_of, tmp_path):
    paths = [copy_of(name).path for name in ("a/run", "b/run", "c")]
    assert [record.label for record in read_records(paths)] == [str(paths[0]), str(paths[1]), "c"]
    with pytest.raises(ValueError, match="named twice"):
        read_records([paths[0], tmp_path / "b" / ".." / "a" / "run"])


def test_what_is_no_run_is_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is this the folder of a run") as refused:
            read_records([path])
        assert "\n" not in str(refused.value)
    (tmp_path / "config.json").write_text('{"some": "tool"}')
    with pytest.raises(ValueError, match="no settings of a run"):
        read_records([tmp_path])
