import math
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rexnet.training import classify
from rexnet.training.classify import train
from rexnet.training.curves import EventLog, RunRows, panel_svg, plot_panel
from rexnet.training.run_folder import RunFolder


def rows(values) -> list[dict]:
    return [{"epoch": epoch, "val_loss": value} for epoch, value in enumerate(values, start=1)]


def plotted(values, **options):
    axis = Figure().subplots()
    plot_panel(axis, {"val_loss": "validation"}, [RunRows(rows=rows(values), best_key="val_loss", **options)])
    return axis


def test_the_points_are_the_rows_and_the_best_has_a_ring():
    curve, ring = plotted([4.0, 2.0, 3.0], best_epoch=2).lines
    assert curve.get_xydata().tolist() == [[1, 4], [2, 2], [3, 3]] and ring.get_xydata().tolist() == [[2, 2]]


def test_long_curves_are_thinned_but_keep_the_last_and_best_epochs():
    curve, _ = plotted([float(n) for n in range(5000)], best_epoch=1234).lines
    epochs = curve.get_xdata().tolist()
    assert len(epochs) <= 402 and epochs[-1] == 5000 and 1234 in epochs
    assert len(panel_svg({"val_loss": ""}, [RunRows(rows=rows([float(n) for n in range(5000)]))])) < 30_000


def test_values_that_are_not_finite_are_gaps():
    for values in ([1.0, math.nan, 2.0], [math.inf, 1.0], [math.nan], [0.0], []):
        assert "nan" not in panel_svg({"val_loss": ""}, [RunRows(rows=rows(values))])


def test_only_whole_epochs_are_marked():
    for epochs in (1, 2, 3, 7, 100):
        axis = plotted([1.0] * epochs)
        assert all(tick == int(tick) for tick in axis.get_xticks())


def test_an_inline_svg_uses_the_colours_of_the_page():
    svg = panel_svg({"train_loss": "training", "val_loss": "validation"}, [RunRows(rows=rows([2.0, 1.0]))])
    assert svg.startswith('<svg viewBox="0 0 360 216"') and "var(--c0)" in svg and ">validation<" in svg
    assert not re.search(r"#[0-9a-f]{6}\b|https?:|url\(", svg)


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


def test_a_missing_package_is_reported_before_anything_is_written(tiny_config, changed, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'rexnet\[tensorboard\]'"):
        train(changed(tiny_config, "run", tensorboard=True))
    assert not Path(tiny_config.run.output).exists()
