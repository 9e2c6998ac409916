"""Plots of ranks: the paper's Fig. 1 and deep networks."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rexnet.files import write_figure
from rexnet.study.published import PUBLISHED
from rexnet.study.summary import Cell

TITLES = {
    "conv1x1": "1x1 convolution",
    "conv3x3": "3x3 convolution",
    "bottleneck3x3": "inverted bottleneck, 3x3 convolution",
    "bottleneck_depthwise": "inverted bottleneck, depthwise convolution",
}
COLOURS = {
    "linear": "#555555",
    "relu6": "#1f77b4",
    "relu": "#17becf",
    "leaky_relu": "#2ca02c",
    "elu": "#9467bd",
    "softplus": "#8c564b",
    "hardswish": "#ff7f0e",
    "silu": "#d62728",
}


def plot_study(cells: Sequence[Cell], stem: str | os.PathLike[str]) -> list[Path]:
    """Rank over output channels against ratio, a panel a block, a curve an activation with its 95 % interval, to
    STEM.png and STEM.svg; hollow circles are the published values."""
    from matplotlib.figure import Figure

    by_block: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        by_block.setdefault(cell.block, {}).setdefault(cell.activation, []).append(cell)
    columns = min(2, len(by_block))
    rows = -(-len(by_block) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.0 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for letter, panel, (block, curves) in zip("abcdefghijkl", panels, by_block.items(), strict=False):
        for activation, points in curves.items():
            ordered = sorted(points, key=lambda point: point.ratio)
            _plot_curve(panel, activation, [point.ratio for point in ordered], ordered)
            _plot_published(panel, activation, PUBLISHED.get(block, {}).get(activation, {}))
        panel.set_title(f"({letter}) {TITLES.get(block, block)}", fontsize=10)
        panel.set_xlabel("input channels / output channels")
        panel.set_ylabel("rank / output channels")
        panel.set_ylim(_lowest_shown(curves), 1.005)
        panel.grid(alpha=0.25)
    for panel in list(figure.axes)[len(by_block) :]:
        panel.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), fontsize=8, frameon=False)
    return write_figure(figure, stem)


def _lowest_shown(curves: Mapping[str, Sequence[Cell]]) -> float:
    """The single convolutions' curves lie close together at the top, where Linear would leave them no room."""
    curved = [cell.mean for name, cells in curves.items() if name != "linear" for cell in cells]
    return min(curved) - 0.02 if curved and min(curved) > 0.6 else 0.0


def _plot_curve(panel: Any, activation: str, places: Sequence[float], points: Sequence[Cell]) -> None:
    means = [point.mean for point in points]
    (line,) = panel.plot(places, means, label=activation, color=COLOURS.get(activation), linewidth=1.4)
    low = [point.mean - point.interval for point in points]
    high = [point.mean + point.interval for point in points]
    panel.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _plot_published(panel: Any, activation: str, curve: Mapping[float, float]) -> None:
    colour = COLOURS.get(activation)
    if activation != "linear" and curve:
        panel.plot(list(curve), list(curve.values()), "o", markersize=3.5, color=colour, fillstyle="none", alpha=0.8)


def plot_depth(cells: Mapping[tuple[str, int], Mapping[str, Cell]], stem: str | os.PathLike[str]) -> list[Path]:
    """Rank over output channels against the number of expand layers, a panel for each placement of them, a curve for
    each activation with its 95 % interval; `cells` by placement, number and activation."""
    from matplotlib.figure import Figure

    placements = list(dict.fromkeys(placement for placement, _ in cells))
    figure = Figure(figsize=(4.0 * len(placements), 4.2), layout="constrained")
    panels = figure.subplots(1, len(placements), sharey=True, squeeze=False)[0]
    for panel, placement in zip(panels, placements, strict=True):
        curves: dict[str, dict[int, Cell]] = {}
        for (where, count), by_activation in cells.items():
            for activation, cell in by_activation.items() if where == placement else ():
                curves.setdefault(activation, {})[count] = cell
        for activation, points in curves.items():
            _plot_curve(panel, activation, list(points), list(points.values()))
        panel.set_title(f"expand layers {placement}", fontsize=10)
        panel.set_xlabel("expand layers")
        panel.set_xticks(sorted({count for _, count in cells}))
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("rank / output channels")
    panels[0].set_ylim(0, 1.005)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), fontsize=8, frameon=False)
    return write_figure(figure, stem)
