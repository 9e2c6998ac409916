"""The study's figures: the paper's Fig. 1, layers of one network, deep networks, spectra, Table 2."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rexnet.files import write_figure
from rexnet.ranks.layer_ranks import Layer
from rexnet.study.published import PUBLISHED, PUBLISHED_SPECTRA
from rexnet.study.summary import Cell

if TYPE_CHECKING:  # they draw with this module
    from rexnet.study.factor_run import FactorSummary
    from rexnet.study.spectra import Spectrum

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
_SMALLEST_SHOWN = 1e-7
"""Singular values below have no place on a logarithmic axis."""


def draw_study(cells: Sequence[Cell], stem: str | os.PathLike[str]) -> list[Path]:
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
            _draw_curve(panel, activation, [point.ratio for point in ordered], ordered)
            _draw_published(panel, activation, PUBLISHED.get(block, {}).get(activation, {}))
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


def _draw_curve(panel: Any, activation: str, places: Sequence[float], points: Sequence[Cell]) -> None:
    means = [point.mean for point in points]
    (line,) = panel.plot(places, means, label=activation, color=COLOURS.get(activation), linewidth=1.4)
    low = [point.mean - point.interval for point in points]
    high = [point.mean + point.interval for point in points]
    panel.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _draw_published(panel: Any, activation: str, curve: Mapping[float, float]) -> None:
    colour = COLOURS.get(activation)
    if activation != "linear" and curve:
        panel.plot(list(curve), list(curve.values()), "o", markersize=3.5, color=colour, fillstyle="none", alpha=0.8)


def draw_layers(layers: Sequence[Layer], stem: str | os.PathLike[str]) -> list[Path]:
    """Ranks over output channels by depth and the singular values of each layer, to STEM.png and STEM.svg."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.5), layout="constrained")
    ranks, spectra = figure.subplots(1, 2)
    places = range(len(layers))
    for name in ("rank_ratio", "effective_rank_ratio", "stable_rank_ratio"):
        label = name.removesuffix("_ratio").replace("_", " ")
        ranks.plot(places, [getattr(layer, name) for layer in layers], ".-", label=label, linewidth=1)
    ranks.plot(places, [min(1.0, layer.ratio) for layer in layers], ":", color="#555555", label="ratio (at most 1)")
    ranks.set_xlabel("layer, in the order of computing")
    ranks.set_ylabel("over output channels")
    ranks.set_ylim(0, 1.02)
    ranks.grid(alpha=0.25)
    ranks.legend(fontsize=8)
    shades = matplotlib.colormaps["viridis"]
    for place, layer in enumerate(layers):
        values = [value / (layer.spectrum[0] or 1.0) for value in layer.spectrum]
        share = [(number + 1) / len(values) for number in range(len(values))]
        spectra.plot(share, values, color=shades(place / max(1, len(layers) - 1)), linewidth=0.8)
    spectra.set_yscale("log")
    spectra.set_ylim(1e-6, 1.3)
    spectra.set_xlabel("singular value, as a share of their number")
    spectra.set_ylabel("over the largest")
    spectra.set_title("first layer dark, last layer light", fontsize=9)
    spectra.grid(alpha=0.25)
    return write_figure(figure, stem)


def draw_depth(cells: Mapping[tuple[str, int], Mapping[str, Cell]], stem: str | os.PathLike[str]) -> list[Path]:
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
            _draw_curve(panel, activation, list(points), list(points.values()))
        panel.set_title(f"expand layers {placement}", fontsize=10)
        panel.set_xlabel("expand layers")
        panel.set_xticks(sorted({count for _, count in cells}))
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("rank / output channels")
    panels[0].set_ylim(0, 1.005)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), fontsize=8, frameon=False)
    return write_figure(figure, stem)


def draw_spectra(spectra: Sequence["Spectrum"], stem: str | os.PathLike[str]) -> list[Path]:
    """Share of the singular values that do not exceed a value, which is over the largest; dashed where untrained,
    hollow marks for what the paper shows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 5.0), layout="constrained")
    panel = figure.subplots()
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(one.network for one in spectra))}
    for one in spectra:
        values = [max(value / (one.values[0] or 1.0), _SMALLEST_SHOWN) for value in reversed(one.values)]
        shares = [(number + 1) / len(values) for number in range(len(values))]
        style = "-" if one.trained else "--"
        label = f"{one.label} (effective rank {one.effective_rank:.0f} of {one.channels})"
        panel.plot(values, shares, style, color=colours[one.network], label=label, linewidth=1.4)
    for mark, (name, points) in zip("os", PUBLISHED_SPECTRA.items(), strict=True):
        label = f"published, {name} on ImageNet"
        panel.plot(list(points.values()), list(points), mark, color="#555555", fillstyle="none", label=label)
    panel.set_xscale("log")
    panel.set_xlabel("singular value of the final features / largest")
    panel.set_ylabel("share of singular values up to it")
    panel.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return write_figure(figure, stem)


def draw_factors(summaries: Sequence["FactorSummary"], stem: str | os.PathLike[str]) -> list[Path]:
    """Top-1 and nuclear norm of each network beside the first one's, measured with the standard deviation over seeds,
    and published."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    points, norms = figure.subplots(1, 2)
    places = range(len(summaries))
    first = summaries[0]
    published = [summary.factor.top1 - first.factor.top1 for summary in summaries]
    points.plot(places, published, "o--", color="#555555", fillstyle="none", label="published")
    if first.top1:
        means = [summary.top1.mean - first.top1.mean for summary in summaries if summary.top1]
        spreads = [summary.top1.deviation or 0.0 for summary in summaries if summary.top1]
        points.errorbar(places, means, yerr=spreads, fmt="o-", color="C3", capsize=3, label="measured")
    points.set_ylabel("top-1, points above the first")
    published = [summary.factor.nuclear_norm / first.factor.nuclear_norm for summary in summaries]
    norms.plot(places, published, "o--", color="#555555", fillstyle="none", label="published")
    scale = first.nuclear_norm.mean or 1.0
    means = [summary.nuclear_norm.mean / scale for summary in summaries]
    spreads = [(summary.nuclear_norm.deviation or 0.0) / scale for summary in summaries]
    norms.errorbar(places, means, yerr=spreads, fmt="o-", color="C3", capsize=3, label="measured")
    norms.set_ylabel("nuclear norm of the final features / first")
    for panel in (points, norms):
        panel.set_xticks(list(places), [fill(summary.factor.title, 16) for summary in summaries], fontsize=7)
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8)
    return write_figure(figure, stem)
