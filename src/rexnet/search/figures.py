"""Figures of a search: channels by block as in the paper's Figs. 2 and 4, predictors of accuracy, Optuna's plots."""

import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexnet.errors import MissingPackageError
from rexnet.files import write_figure
from rexnet.search.analysis import Estimate, Group
from rexnet.search.storage import ignore_experimental, require_optuna

if TYPE_CHECKING:
    import optuna

COLOURS = {"top": "#1f77b4", "middle": "#777777", "bottom": "#d62728"}
_FEWEST_FOR_IMPORTANCE = 10


def draw_groups(groups: Sequence[Group], stem: str | os.PathLike[str]) -> list[Path]:
    """Plot the mean channels of each group with a band of one standard deviation, and their line, dotted."""
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
    """Plot the top group of each search."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.0), layout="constrained")
    panel = figure.subplots()
    for index, (name, group) in enumerate(tops.items()):
        _draw_band(panel, group, label=f"{name}: {group.accuracy.mean:.1f} %", colour=f"C{index}")
    _finish(panel)
    return write_figure(figure, stem)


def draw_predictors(predictors: Mapping[str, Estimate], stem: str | os.PathLike[str]) -> list[Path]:
    """Plot rank correlations with the trained accuracy and their intervals."""
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


def optuna_page(study: "optuna.Study") -> str:
    """Return Optuna's own plots as one HTML page that loads nothing. MissingPackageError without Plotly."""
    optuna = require_optuna()
    try:
        import plotly.io
    except ImportError as error:
        raise MissingPackageError("rexnet search report", "plotly", "'rexnet[search]'") from error
    show = optuna.visualization
    state = optuna.trial.TrialState
    finished = study.get_trials(deepcopy=False, states=(state.COMPLETE,))
    several = len(study.directions) > 1
    kinds: list[Callable[[Any], Any]] = [show.plot_timeline]
    if several and len(study.directions) <= 3:
        kinds.insert(0, show.plot_pareto_front)
    if not several:
        kinds = [show.plot_optimization_history, show.plot_edf, *kinds, show.plot_slice, show.plot_parallel_coordinate]
        if len({tuple(trial.values) for trial in finished}) >= _FEWEST_FOR_IMPORTANCE:
            kinds.append(show.plot_param_importances)
        if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
            kinds.append(show.plot_intermediate_values)
    with ignore_experimental():
        figures = [kind(study) for kind in kinds]
    parts = [
        plotly.io.to_html(figure, full_html=False, include_plotlyjs=index == 0) for index, figure in enumerate(figures)
    ]
    title = escape(f"Search {study.study_name}")
    return f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title></head><body>\n' + "\n".join(
        [*parts, "</body></html>\n"]
    )
