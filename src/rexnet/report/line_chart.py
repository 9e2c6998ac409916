"""Curves as SVG inside a page: drawn in the page's own colours, so that they suit a light and a dark one."""

import math
from dataclasses import dataclass

from rexnet.report.markup import Markup, join, tag

_WIDTH, _HEIGHT = 400, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 34
"""The left one is wider where a figure beside the axis needs it."""
_CHARACTER = 7.7
"""Width of a figure's character in the page's widest font."""
_MAX_POINTS = 400
"""Of a line; longer ones are thinned, which no screen shows."""
_MAX_DOTS = 60


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve. `points` are (epoch, value); values that are not finite leave a point out."""

    label: str
    points: tuple[tuple[float, float], ...]
    colour: int
    """Which colour of the page, from 0."""
    core: int = 0
    """Which core of the page runs along its middle, from 1; 0 is none."""
    dashed: bool = False
    marked: float | None = None
    """The epoch to put a ring around."""


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """Data to pixels of the drawing."""

    x_ticks: list[float]
    y_ticks: list[float]
    x_range: tuple[float, float]

    @property
    def left(self) -> float:
        return max(_LEFT, 10 + _CHARACTER * max(len(_figure(tick)) for tick in self.y_ticks))

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(self.left + (value - low) / (high - low) * (_WIDTH - self.left - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return round(_HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)


def line_chart(title: str, lines: list[Line], *, description: str) -> Markup:
    """A figure with `title`, its lines over epochs; `description` says to a screen reader what the lines show."""
    finite = [(line, _thinned(line)) for line in lines]
    if not any(points for _, points in finite):
        return Markup("")
    axes = _axes([point for _, points in finite for point in points])
    drawing = tag(
        "svg",
        _grid(axes),
        *(_curve(line, points, axes) for line, points in finite if points),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title}: {description}",
    )
    return tag("figure", tag("figcaption", title), drawing, class_="chart")


def _thinned(line: Line) -> list[tuple[float, float]]:
    points = [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
    stride = math.ceil(len(points) / _MAX_POINTS)
    # Counted from the end, so that the newest epoch is always there.
    return [
        point
        for number, point in enumerate(points, start=1 - len(points))
        if number % stride == 0 or point[0] == line.marked
    ]


def _axes(points: list[tuple[float, float]]) -> _Axes:
    from matplotlib.ticker import MaxNLocator

    epochs, values = zip(*points, strict=True)
    first, last = min(epochs), max(epochs)
    if first == last:
        first, last = first - 0.5, last + 0.5
    low, high = min(values), max(values)
    if low == high:
        low, high = (low - abs(low) / 10, high + abs(high) / 10) if low else (0.0, 1.0)
    x_ticks = [
        tick
        for tick in MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1).tick_values(first, last)
        if first <= tick <= last
    ]
    y_ticks = list(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    return _Axes(x_ticks=x_ticks, y_ticks=y_ticks, x_range=(first, last))


def _figure(tick: float) -> str:
    return f"{tick:.4g}"


def _grid(axes: _Axes) -> Markup:
    bottom, left, right = _HEIGHT - _BOTTOM, round(axes.left, 1), _WIDTH - _RIGHT
    parts = []
    for tick in axes.y_ticks:
        y = axes.y(tick)
        parts.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", _figure(tick), x=round(left - 6, 1), y=y + 4, text_anchor="end"))
    for tick in axes.x_ticks:
        parts.append(tag("text", f"{tick:g}", x=axes.x(tick), y=bottom + 16, text_anchor="middle"))
    parts.append(tag("text", "epoch", x=round((left + right) / 2, 1), y=_HEIGHT - 4, text_anchor="middle"))
    return join(*parts)


def _curve(line: Line, points: list[tuple[float, float]], axes: _Axes) -> Markup:
    path = " ".join(f"{axes.x(x)},{axes.y(y)}" for x, y in points)
    kind = "dashed" if line.dashed else None
    parts = [tag("polyline", points=path, class_=kind)]
    if line.core:
        parts.append(tag("polyline", points=path, class_=f"{kind} core" if kind else "core"))
    if len(points) <= _MAX_DOTS:
        parts += [
            tag("circle", tag("title", f"{line.label}, epoch {x:g}: {y:.4g}"), cx=axes.x(x), cy=axes.y(y), r=2.5)
            for x, y in points
        ]
    parts += [tag("circle", cx=axes.x(x), cy=axes.y(y), r=6, class_="ring") for x, y in points if x == line.marked]
    return tag("g", *parts, class_=f"colour{line.colour} core{line.core}" if line.core else f"colour{line.colour}")
