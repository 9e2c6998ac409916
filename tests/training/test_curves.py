import math
import re

from matplotlib.figure import Figure

from rexnet.training.curves import RunRows, panel_svg, plot_panel


def rows(values) -> list[dict]:
    return [{"epoch": epoch, "val_loss": value} for epoch, value in enumerate(values, start=1)]


def plotted(values, **options):
    axis = Figure().subplots()
    plot_panel(axis, {"val_loss": "validation"}, [RunRows(rows=rows(values), best_key="val_loss", **options)])
    return axis


def test_the_points_are_the_rows_and_the_best_has_a_ring():
    curve, ring = plotted([4.0, 2.0, 3.0], best_epoch=2).lines
    assert curve.get_xydata().tolist() == [[1, 4], [2, 2], [3, 3]] and ring.get_xydata().tolist() == [[2, 2]]


def test_long_curves_are_thinned_but_keep_their_end_and_their_best():
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


def test_an_svg_stands_in_a_page_and_takes_its_colours():
    svg = panel_svg({"train_loss": "training", "val_loss": "validation"}, [RunRows(rows=rows([2.0, 1.0]))])
    assert svg.startswith('<svg viewBox="0 0 360 216"') and "var(--c0)" in svg and ">validation<" in svg
    assert not re.search(r"#[0-9a-f]{6}\b|https?:|url\(", svg)
