"""`rexnet study rank` and `rexnet study depth`: resumable measurement of the rank of random networks."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rexnet.figures import write_figure
from rexnet.files import write_whole
from rexnet.study.config import DepthConfig, RankConfig
from rexnet.study.protocol import deep_name
from rexnet.study.published import PUBLISHED
from rexnet.study.rank_table import TABLE, Cell, extend_table, read_rows, summarise, summary_csv
from rexnet.study.tables import make_folder

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

Curves = Mapping[str, Mapping[float, Cell]]
"""Cells by activation and position on the horizontal axis."""


def study_ranks(config: RankConfig) -> list[Cell]:
    """Update the folder's table, and write ranks.csv, summary.csv, figure.png and figure.svg from it."""
    folder = make_folder(config.output)
    where = {"processes": config.processes, "address": config.address}
    extend_table(folder / TABLE, config.protocol, networks=config.networks, **where)
    cells = _summarise(folder)
    plot_ranks(cells, folder / "figure")
    return cells


def study_depth(config: DepthConfig) -> dict[tuple[str, int], dict[str, Cell]]:
    """Return cells by placement, number of expand layers and activation, and write the same files as `study_ranks`."""
    folder = make_folder(config.output)
    extend_table(folder / TABLE, config.protocol(), networks=config.networks, processes=config.processes)
    by_block: dict[str, dict[str, Cell]] = {}
    for cell in _summarise(folder):
        by_block.setdefault(cell.block, {})[cell.activation] = cell
    found: dict[tuple[str, int], dict[str, Cell]] = {
        cell: by_block[deep_name(*cell, layers=config.layers)] for cell in config.cells()
    }
    plot_depth(found, folder / "figure")
    return found


def _summarise(folder: Path) -> list[Cell]:
    cells = summarise(*read_rows(folder / TABLE))
    write_whole(folder / "summary.csv", summary_csv(cells))
    return cells


def plot_ranks(cells: Sequence[Cell], stem: str | os.PathLike[str]) -> list[Path]:
    """Plot rank over output channels against ratio, a panel per block, a curve per activation with its 95 % interval,
    to STEM.png and STEM.svg; hollow circles are the published values."""
    from matplotlib.figure import Figure

    by_block: dict[str, dict[str, dict[float, Cell]]] = {}
    for cell in cells:
        by_block.setdefault(cell.block, {}).setdefault(cell.activation, {})[cell.ratio] = cell
    columns = min(2, len(by_block))
    rows = -(-len(by_block) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.0 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for letter, panel, (block, curves) in zip("abcdefghijkl", panels, by_block.items(), strict=False):
        _plot_curves(panel, curves, published=PUBLISHED.get(block, {}))
        panel.set_title(f"({letter}) {TITLES.get(block, block)}", fontsize=10)
        panel.set_xlabel("input channels / output channels")
        panel.set_ylabel("rank / output channels")
        panel.set_ylim(_lowest_shown(curves), 1.005)
    for panel in list(figure.axes)[len(by_block) :]:
        panel.set_visible(False)
    return _write_with_legend(figure, stem)


def plot_depth(cells: Mapping[tuple[str, int], Mapping[str, Cell]], stem: str | os.PathLike[str]) -> list[Path]:
    """Plot rank over output channels against the number of expand layers, a panel per placement, a curve per activation
    with its 95 % interval; `cells` by placement, number and activation."""
    from matplotlib.figure import Figure

    by_placement: dict[str, dict[str, dict[float, Cell]]] = {}
    for (placement, count), by_activation in cells.items():
        for activation, cell in by_activation.items():
            by_placement.setdefault(placement, {}).setdefault(activation, {})[count] = cell
    figure = Figure(figsize=(4.0 * len(by_placement), 4.2), layout="constrained")
    panels = figure.subplots(1, len(by_placement), sharey=True, squeeze=False)[0]
    for panel, (placement, curves) in zip(panels, by_placement.items(), strict=True):
        _plot_curves(panel, curves, published={})
        panel.set_title(f"expand layers {placement}", fontsize=10)
        panel.set_xlabel("expand layers")
        panel.set_xticks(sorted({count for _, count in cells}))
    panels[0].set_ylabel("rank / output channels")
    panels[0].set_ylim(0, 1.005)
    return _write_with_legend(figure, stem)


def _plot_curves(panel: Any, curves: Curves, *, published: Mapping[str, Mapping[float, float]]) -> None:
    for activation, points in curves.items():
        places, colour = sorted(points), COLOURS.get(activation)
        cells = [points[place] for place in places]
        means = [cell.mean for cell in cells]
        (line,) = panel.plot(places, means, label=activation, color=colour, linewidth=1.4)
        low, high = ([cell.mean + sign * cell.interval for cell in cells] for sign in (-1, 1))
        panel.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        if activation != "linear" and (curve := published.get(activation)):
            dots = {"markersize": 3.5, "fillstyle": "none", "alpha": 0.8}
            panel.plot(list(curve), list(curve.values()), "o", color=colour, **dots)
    panel.grid(alpha=0.25)


def _lowest_shown(curves: Curves) -> float:
    """Return the lower limit of the axis: just below all curves except Linear if these lie close to the top, else 0."""
    curved = [cell.mean for name, cells in curves.items() if name != "linear" for cell in cells.values()]
    return min(curved) - 0.02 if curved and min(curved) > 0.6 else 0.0


def _write_with_legend(figure: Any, stem: str | os.PathLike[str]) -> list[Path]:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), fontsize=8, frameon=False)
    return write_figure(figure, stem)
