"""`rexnet search report`: tables, figures and Optuna's plots of one search, or of several with different limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rexnet.files import real_path, write_whole
from rexnet.search.analysis import (
    FEWEST_IN_GROUPS,
    Group,
    compare_line_and_stages,
    compare_residuals,
    correlate_predictors,
    rank_sampled,
    split_groups,
)
from rexnet.search.config import EngineOptions, SearchConfig, SearchReportConfig
from rexnet.search.recipes import SEARCHES, known_constraint
from rexnet.search.results import Candidate, candidates_of
from rexnet.search.storage import describe_data, existing_study, settings_of
from rexnet.search.tables import (
    agreement_table,
    best_table,
    budgets_table,
    candidates_table,
    comparison_lines,
    front_table,
    groups_table,
    predictors_table,
)
from rexnet.text import csv_text, markdown_text, quantity

if TYPE_CHECKING:
    import optuna


import os
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING

from rexnet.errors import MissingPackageError
from rexnet.figures import write_figure
from rexnet.search.analysis import Estimate
from rexnet.search.storage import ignore_experimental, require_optuna

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A search, read from its storage."""

    name: str
    settings: SearchConfig
    candidates: list[Candidate]
    study: "optuna.Study"

    @property
    def has_groups(self) -> bool:
        return len(rank_sampled(self.candidates)) >= FEWEST_IN_GROUPS

    @cached_property
    def groups(self) -> list[Group]:
        return split_groups(self.candidates, self.settings.space)


def report(config: SearchReportConfig) -> Path:
    """Write report.md with all tables, each as CSV too, the figures as PNG and SVG, and optuna.html, and return the
    folder. Raise ValueError for a folder without a search."""
    names = [real_path(folder).name for folder in config.searches]
    if len(set(names)) < len(names):
        names = [folder.strip("/").replace("/", "-") for folder in config.searches]
    findings = [_read(folder, config, name=name) for folder, name in zip(config.searches, names, strict=True)]
    output = Path(config.output or Path(config.searches[0]) / "report")
    several = len(findings) > 1
    texts = [_describe(finding, output, prefix=f"{finding.name}-" if several else "") for finding in findings]
    trained = [finding for finding in findings if finding.has_groups]
    if len(trained) > 1:
        texts += _compare(trained, output)
    write_whole(output / "report.md", "# Search for channels\n\n" + "\n".join(texts))
    return output


def _read(folder: str, config: SearchReportConfig, *, name: str) -> Finding:
    study = existing_study(EngineOptions(output=folder, storage=config.storage, study=config.study))
    return Finding(name=name, settings=settings_of(study), candidates=candidates_of(study), study=study)


def _compare(findings: Sequence[Finding], output: Path) -> list[str]:
    draw_budgets({finding.name: finding.groups[0] for finding in findings}, output / "budgets")
    rows = budgets_table({finding.name: (finding.settings.space, finding.candidates) for finding in findings})
    texts = [f"## Budgets\n\n{_table(rows, output / 'budgets.csv')}\n![budgets](budgets.png)\n"]
    same = agreement_table({finding.name: finding.candidates for finding in findings})
    if len(same) > 1:
        table = _table(same, output / "agreement.csv")
        texts.append(f"## The same networks in two searches\n\nThe rank correlation of their accuracies:\n\n{table}")
    return texts


def _describe(finding: Finding, output: Path, *, prefix: str) -> str:
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / f"{prefix}candidates.csv", csv_text(candidates_table(finding.candidates, finding.settings)))
    write_whole(output / f"{prefix}optuna.html", optuna_page(finding.study))
    data = describe_data(finding.study) or finding.settings.data
    lines = [f"## {finding.name}", "", f"{data}; {_describe_settings(finding.settings)}", ""]
    objectives = finding.settings.engine.objectives
    best = best_table(finding.candidates, objectives)
    lines += [_table(best, output / f"{prefix}best.csv") if len(best) > 1 else "No candidate is finished yet.", ""]
    if len(objectives) > 1:
        table = _table(front_table(finding.study, finding.settings), output / f"{prefix}front.csv")
        lines += ["The Pareto front: candidates that no other candidate beats in all objectives:", "", table]
    if not finding.has_groups:
        few = f"Groups need {FEWEST_IN_GROUPS} trained candidates or more.\n"
        return "\n".join([*lines, few] if "accuracy" in objectives else lines)
    found, constraint = finding.groups, known_constraint(finding.settings)
    published = SEARCHES[constraint] if constraint else None
    draw_groups(found, output / f"{prefix}groups")
    lines += [_table(groups_table(found, published), output / f"{prefix}groups.csv")]
    lines += [f"![channels by group]({quote(prefix)}groups.png)", ""]
    lines += comparison_lines(
        compare_line_and_stages(finding.candidates), compare_residuals(finding.candidates), finding.settings.space
    )
    if known := correlate_predictors(finding.candidates):
        draw_predictors(known, output / f"{prefix}predictors")
        lines += [_table(predictors_table(known), output / f"{prefix}predictors.csv")]
        lines += [f"![predictors]({quote(prefix)}predictors.png)", ""]
    return "\n".join(lines)


def _describe_settings(settings: SearchConfig) -> str:
    space = settings.space
    limits = {"parameters": space.max_parameters, f"MACs at {space.cost_size} px": space.max_macs}
    given = [f"at most {limit / 1e6:g} M {what}" for what, limit in limits.items() if limit is not None]
    trainings = f"{quantity(settings.training.repeats, 'training')} per candidate"
    epochs = settings.schedule.epochs
    protocol = f"{quantity(epochs, 'epoch')} at {settings.images.image_size} px, {trainings}"
    if "accuracy" not in settings.engine.objectives:
        protocol = "not trained"
    return f"{space.blocks} blocks, {', '.join(given)}; {protocol}; {settings.engine.sampler} sampler"


def _table(rows: Sequence[Sequence[Any]], path: Path) -> str:
    """Write a table with a header row to `path` as CSV, and return it as Markdown."""
    write_whole(path, csv_text(rows))
    return markdown_text(rows)


COLOURS = {"top": "#1f77b4", "middle": "#777777", "bottom": "#d62728"}
_FEWEST_FOR_IMPORTANCE = 10


def draw_groups(groups: Sequence[Group], stem: str | os.PathLike[str]) -> list[Path]:
    """Plot the mean channels of each group with a band of one standard deviation, and the fitted line, dotted."""
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
    panel.set_xlabel("rank correlation with the final accuracy")
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
    """Return Optuna's own plots as one self-contained HTML page. Raise MissingPackageError without Plotly."""
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
