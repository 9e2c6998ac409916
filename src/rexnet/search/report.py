"""`rexnet search report`: tables, figures and Optuna's own plots of one search, or of several at other budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexnet.files import write_whole
from rexnet.search.analysis import FEWEST_IN_GROUPS, Group, compare, drawn, groups, nearer_to_a_line, predictors
from rexnet.search.config import EngineOptions, SearchConfig, SearchReportConfig
from rexnet.search.figures import draw_budgets, draw_groups, draw_predictors
from rexnet.search.plots import optuna_page
from rexnet.search.published import SEARCHES
from rexnet.search.recipes import known_constraint
from rexnet.search.results import Candidate, candidates_of
from rexnet.search.storage import existing_study, settings_of
from rexnet.search.tables import (
    agreement_table,
    best_table,
    budgets_table,
    comparison_lines,
    front_table,
    groups_table,
    predictors_table,
)
from rexnet.search.trend import fit_line
from rexnet.text import csv_text, markdown_text, plural

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One search, read."""

    name: str
    settings: SearchConfig
    candidates: list[Candidate]
    study: "optuna.Study"

    @property
    def has_groups(self) -> bool:
        return len(drawn(self.candidates)) >= FEWEST_IN_GROUPS

    @cached_property
    def groups(self) -> list[Group]:
        return groups(self.candidates, self.settings.space)


def report(config: SearchReportConfig) -> Path:
    """Writes report.md with all tables, each as CSV too, the figures as PNG and SVG, and optuna.html; returns the
    folder. ValueError for a folder without a search."""
    names = [Path(folder).resolve().name for folder in config.searches]
    if len(set(names)) < len(names):
        names = [folder.strip("/").replace("/", "-") for folder in config.searches]
    findings = [_read(folder, config, name=name) for folder, name in zip(config.searches, names, strict=True)]
    output = Path(config.output or Path(config.searches[0]) / "report")
    texts = [_describe(finding, output, prefix=_prefix(finding, findings)) for finding in findings]
    trained = [finding for finding in findings if finding.has_groups]
    if len(trained) > 1:
        texts += _compare(trained, output)
    write_whole(output / "report.md", "# Search for channels\n\n" + "\n".join(texts))
    return output


def _read(folder: str, config: SearchReportConfig, *, name: str) -> Finding:
    study = existing_study(EngineOptions(output=folder, storage=config.storage, study=config.study))
    return Finding(name=name, settings=settings_of(study), candidates=candidates_of(study), study=study)


def _prefix(finding: Finding, findings: Sequence[Finding]) -> str:
    return f"{finding.name}-" if len(findings) > 1 else ""


def _compare(findings: Sequence[Finding], output: Path) -> list[str]:
    draw_budgets({finding.name: finding.groups[0] for finding in findings}, output / "budgets")
    rows = budgets_table({finding.name: (finding.settings.space, finding.candidates) for finding in findings})
    texts = [f"## Budgets\n\n{_table(rows, output / 'budgets.csv')}\n![budgets](budgets.png)\n"]
    same = agreement_table({finding.name: finding.candidates for finding in findings})
    if len(same) > 1:
        table = _table(same, output / "agreement.csv")
        texts.append(f"## The same networks in two searches\n\nHow alike their accuracies rank them:\n\n{table}")
    return texts


def _describe(finding: Finding, output: Path, *, prefix: str) -> str:
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / f"{prefix}candidates.csv", csv_text(_candidate_rows(finding)))
    write_whole(output / f"{prefix}optuna.html", optuna_page(finding.study))
    space = finding.settings.space
    facts = [f"{finding.study.user_attrs.get('data', finding.settings.data)}", _limits(finding.settings)]
    lines = [f"## {finding.name}", "", "; ".join(facts), ""]
    objectives = finding.settings.engine.objectives
    best = best_table(finding.candidates, objectives)
    lines += [_table(best, output / f"{prefix}best.csv") if len(best) > 1 else "No candidate is finished yet.", ""]
    if len(objectives) > 1:
        table = _table(front_table(finding.study, finding.settings), output / f"{prefix}front.csv")
        lines += ["Candidates that no other one beats in all objectives:", "", table]
    if not finding.has_groups:
        few = f"Groups need {FEWEST_IN_GROUPS} trained candidates or more.\n"
        return "\n".join([*lines, few] if "accuracy" in objectives else lines)
    found, constraint = finding.groups, known_constraint(finding.settings)
    published = SEARCHES[constraint] if constraint else None
    draw_groups(found, output / f"{prefix}groups")
    lines += [_table(groups_table(found, published), output / f"{prefix}groups.csv")]
    lines += [f"![channels by group]({prefix}groups.png)", ""]
    lines += comparison_lines(compare(finding.candidates), nearer_to_a_line(finding.candidates), space)
    known = predictors(finding.candidates)
    if known:
        draw_predictors(known, output / f"{prefix}predictors")
        lines += [_table(predictors_table(known), output / f"{prefix}predictors.csv")]
        lines += [f"![predictors]({prefix}predictors.png)", ""]
    return "\n".join(lines)


def _limits(settings: SearchConfig) -> str:
    space = settings.space
    limits = {"parameters": space.max_parameters, f"MACs at {space.cost_size} px": space.max_macs}
    told = [f"at most {limit / 1e6:g} M {what}" for what, limit in limits.items() if limit is not None]
    trainings = f"{settings.training.repeats} {plural(settings.training.repeats, 'training')} a candidate"
    epochs = settings.schedule.epochs
    protocol = f"{epochs} {plural(epochs, 'epoch')} at {settings.images.image_size} px, {trainings}"
    if "accuracy" not in settings.engine.objectives:
        protocol = "not trained"
    return f"{space.blocks} blocks, {', '.join(told)}; {protocol}; {settings.engine.sampler} sampler"


def _candidate_rows(finding: Finding) -> list[list[Any]]:
    objectives = finding.settings.engine.objectives
    scores = sorted({name for row in finding.candidates for name in row.scores})
    head = ["number", "channels", "comparison", "state", *objectives, "parameters", "macs", "published_flops"]
    rows: list[list[Any]] = [[*head, "slope", "offset", "residual", "latency_ms", "seconds", "accuracies", *scores]]
    for row in finding.candidates:
        line = fit_line(row.channels)
        values = row.values or [""] * len(objectives)
        flops = finding.settings.space.cost(row.channels).published_flops
        kind = [row.number, row.name, row.comparison or "", "pruned" if row.pruned else "complete"]
        trained = [row.latency_ms or "", row.seconds or "", " ".join(map(str, row.accuracies))]
        figures = [f"{value:.6g}" for value in line]
        rows.append([*kind, *values, row.parameters, row.macs, flops, *figures, *trained, *map(row.scores.get, scores)])
    return rows


def _table(rows: Sequence[Sequence[Any]], path: Path) -> str:
    """Markdown of a table whose first row is its head; it goes to `path` as CSV too."""
    write_whole(path, csv_text(rows))
    return markdown_text(rows)
