import math
import re

from rexnet.report.line_chart import Line, line_chart


def curve(values, **options) -> Line:
    return Line(label="a", points=tuple(enumerate(values, start=1)), colour=0, **options)


def test_points_lie_where_their_values_say():
    chart = line_chart("Loss", [curve([4.0, 2.0, 0.0], marked=3)], description="falls")
    (points,) = re.findall(r'polyline points="([^"]*)"', chart)
    (x1, y1), (x2, y2), (x3, y3) = (map(float, point.split(",")) for point in points.split())
    assert x2 - x1 == x3 - x2 > 0 and y2 - y1 == y3 - y2 > 0
    assert [float(text) for text in re.findall(r'"end">([^<]*)<', chart)] == [0, 1, 2, 3, 4]
    assert 'class="ring"' in chart and "<title>a, epoch 1: 4</title>" in chart and 'aria-label="Loss: falls"' in chart


def test_nothing_finite_is_no_chart():
    assert line_chart("x", [curve([math.nan, math.inf]), curve([])], description="") == ""
    assert "nan" not in line_chart("x", [curve([1.0, math.nan, 2.0])], description="")


def test_one_point_and_a_flat_line_have_axes():
    for values in ([0.0], [5.0], [1e-9, 1e-9], [0.0, 0.0], [-2.0, -2.0]):
        chart = line_chart("x", [curve(values)], description="")
        assert chart.count("<circle") == len(values) and "nan" not in chart


def test_long_lines_are_thinned_but_keep_their_end_and_their_best():
    chart = line_chart("x", [curve([float(n) for n in range(5000)], marked=1234)], description="")
    (points,) = re.findall(r'polyline points="([^"]*)"', chart)
    assert len(points.split()) <= 402 and 'class="ring"' in chart and len(chart) < 12_000
    assert points.split()[-1].startswith("388.0,")


def test_lines_with_a_core_differ_from_those_of_their_colour():
    chart = line_chart("x", [curve([1.0, 2.0]), curve([1.0, 2.0], core=1), curve([1.0, 2.0], core=2)], description="")
    assert [chart.count(f'<g class="{look}">') for look in ("colour0", "colour0 core1", "colour0 core2")] == [1, 1, 1]
    assert chart.count("<polyline") == 5 and chart.count('class="core"') == 2


def test_the_figures_beside_the_axis_have_room():
    for value in (0.00095, -0.00125, 1.25e-7, 88.0):
        chart = line_chart("x", [curve([value, value * 1.02])], description="")
        labels = re.findall(r'<text x="([^"]*)"[^>]*"end">([^<]*)<', chart)
        assert labels and all(float(end) >= 7.5 * len(text) for end, text in labels)


def test_only_whole_epochs_are_marked():
    for epochs in (1, 2, 3, 7, 100):
        chart = line_chart("x", [curve([1.0] * epochs)], description="")
        marks = re.findall(r'"middle">([^<e]*)<', chart)
        assert marks and all(mark.isdecimal() and 1 <= int(mark) <= epochs for mark in marks)
