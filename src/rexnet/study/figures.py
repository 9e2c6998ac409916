"""The study's figure, four panels as the paper's Fig. 1, and the layers of one network as a chart."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rexnet.data.figure_files import write_figure
from rexnet.models.layer_ranks import Layer
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
            _draw_curve(panel, activation, sorted(points, key=lambda point: point.ratio))
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


def _draw_curve(panel: Any, activation: str, points: Sequence[Cell]) -> None:
    ratios, means = [point.ratio for point in points], [point.mean for point in points]
    (line,) = panel.plot(ratios, means, label=activation, color=COLOURS.get(activation), linewidth=1.4)
    low = [point.mean - point.interval for point in points]
    high = [point.mean + point.interval for point in points]
    panel.fill_between(ratios, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


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
