import sys
from collections import defaultdict
from pathlib import Path

import pytest

from rexnet.training import classify
from rexnet.training.classify import train
from rexnet.training.run_folder import RunFolder
from rexnet.training.tensorboard_events import EventLog


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: tag -> (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.mark.seconds
def test_a_run_writes_its_rows_as_scalars(tiny_config, changed):
    train(changed(tiny_config, "run", tensorboard=True))
    run = RunFolder(tiny_config.run.output)
    rows: dict[str, list] = defaultdict(list)
    for row in run.rows():
        for name, value in row.items():
            rows[name].append((row["epoch"], pytest.approx(value, rel=1e-5)))
    found = scalars(run.path)
    assert found == {name.replace("_", "/", 1): values for name, values in rows.items() if name != "epoch"}
    assert {"train/loss", "val/top1", "lr", "images/per_second"} <= found.keys() and len(found["lr"]) == 3
    run.prepare(overwrite=True)
    assert not [path for path in run.path.iterdir() if path.name != ".lock"], (
        "a run that is replaced takes its events with it"
    )


@pytest.mark.seconds
def test_without_the_flag_nothing_is_written(tiny_config):
    train(tiny_config)
    assert not list(Path(tiny_config.run.output).glob("events*"))


def test_a_resumed_run_shows_every_epoch_once(tmp_path):
    first = EventLog(tmp_path, done_epochs=0)
    for epoch in (1, 2, 3):
        first.add({"epoch": epoch, "train_loss": 10.0 + epoch})
    # Killed here: no close. Only two epochs had reached their checkpoint.
    again = EventLog(tmp_path, done_epochs=2)
    again.add({"epoch": 3, "train_loss": 23.0})
    again.close()
    assert scalars(tmp_path) == {"train/loss": [(1, 11.0), (2, 12.0), (3, 23.0)]}
    first.close()


@pytest.mark.seconds
def test_the_flag_may_come_with_a_resume(tiny_config, changed, monkeypatch):
    calls = iter(range(100))
    plain_loss = classify.classification_loss

    def loss(*args, **kwargs):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return plain_loss(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(classify, "classification_loss", loss)
        train(tiny_config)
    train(changed(tiny_config, "run", tensorboard=True, resume=True))
    assert [step for step, _ in scalars(Path(tiny_config.run.output))["val/top1"]] == [2, 3]


def test_a_missing_package_is_one_sentence_before_anything_is_written(tiny_config, changed, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'rexnet\[tensorboard\]'"):
        train(changed(tiny_config, "run", tensorboard=True))
    assert not Path(tiny_config.run.output).exists()
