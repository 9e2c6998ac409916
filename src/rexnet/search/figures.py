"""Figures of a search: channels against block index as the paper's Figs. 2 and 4, and what predicts accuracy."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rexnet.files import write_figure
from rexnet.search.analysis import Estimate, Group

COLOURS = {"top": "#1f77b4", "middle": "#777777", "bottom": "#d62728"}


def draw_groups(groups: Sequence[Group], stem: str | os.PathLike[str]) -> list[Path]:
    """Mean channels of each group with a band of one standard deviation, and the line fitted to them, dotted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.0), layout="constrained")
    panel = figure.subplots()
    for group in groups:
        label = f"{group.name} 10 %: {group.accuracy.mean:.1f} %"
        _draw_band(panel, group, label=label, colour=COLOURS[group.name])
        blocks = range(1, len(group.channels) + 1)
        line = [group.line.slope * block + group.line.offset for block in blocks]
        panel.plot(blocks, line, ":", color=COLOURS[group.name], linewidth=1)
    _finish(panel)
    return write_figure(figure, stem)


def draw_budgets(tops: Mapping[str, Group], stem: str | os.PathLike[str]) -> list[Path]:
    """The top group of each search, by its name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.0), layout="constrained")
    panel = figure.subplots()
    for index, (name, group) in enumerate(tops.items()):
        _draw_band(panel, group, label=f"{name}: {group.accuracy.mean:.1f} %", colour=f"C{index}")
    _finish(panel)
    return write_figure(figure, stem)


def draw_predictors(predictors: Mapping[str, Estimate], stem: str | os.PathLike[str]) -> list[Path]:
    """Rank correlations with the trained accuracy and their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 1.2 + 0.26 * len(predictors)), layout="constrained")
    panel = figure.subplots()
    for place, estimate in enumerate(predictors.values()):
        panel.plot([estimate.low, estimate.high], [place, place], color="#1f77b4", linewidth=1.5)
        panel.plot(estimate.value, place, "o", color="#1f77b4", markersize=4)
    panel.axvline(0.0, color="#777777", linewidth=0.8)
    panel.set_yticks(range(len(predictors)), list(predictors))
    panel.invert_yaxis()
    panel.set_xlim(-1.02, 1.02)
    panel.set_xlabel("rank correlation with the accuracy at the end")
    panel.grid(alpha=0.25, axis="x")
    return write_figure(figure, stem)


def _draw_band(panel: Any, group: Group, *, label: str, colour: str) -> None:
    blocks = range(1, len(group.channels) + 1)
    means = [block.mean for block in group.channels]
    panel.plot(blocks, means, ".-", color=colour, label=label)
    low = [block.mean - block.deviation for block in group.channels]
    high = [block.mean + block.deviation for block in group.channels]
    panel.fill_between(blocks, low, high, color=colour, alpha=0.18, linewidth=0)


def _finish(panel: Any) -> None:
    panel.set_xlabel("block")
    panel.set_ylabel("output channels")
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=8)
