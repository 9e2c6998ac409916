"""Tables of a report, as rows of text with a header row."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rexnet.search.analysis import Comparison, Estimate, Group, Spread, correlate_searches, rank_sampled, split_groups
from rexnet.search.config import Objective, SearchConfig, format_value
from rexnet.search.recipes import PublishedSearch
from rexnet.search.results import Candidate, best_first
from rexnet.search.shape import fit_line
from rexnet.search.space import Space
from rexnet.text import quantity

if TYPE_CHECKING:
    import optuna

Rows = list[list[str]]
_BEST = 10


def best_table(candidates: Sequence[Candidate], objectives: Sequence[Objective]) -> Rows:
    """Return the ten best networks; only the header if there are none."""
    rows = [["channels", *objectives, "parameters M", "MACs M", "off a line"]]
    for row in best_first(candidates, objectives[0])[:_BEST]:
        reached = [format_value(name, value) for name, value in zip(objectives, row.values, strict=True)]
        cost = [f"{row.parameters / 1e6:.3f}", f"{row.macs / 1e6:.1f}"]
        rows.append([row.name, *reached, *cost, f"{fit_line(row.channels).residual:.1%}"])
    return rows


def groups_table(found: Sequence[Group], published: PublishedSearch | None) -> Rows:
    """Return the paper's Table 3 of this search, with the published values for a search under one of its
    constraints."""
    head = ["group", "candidates", "top-1 %", "parameters M", "FLOPs M", "mean channels", "line", "off a line"]
    rows = [head + (["paper: top-1 % (CIFAR-100)", "paper: FLOPs M"] if published else [])]
    for group in found:
        row = [
            f"{group.name} 10 %",
            str(group.size),
            _spread(group.accuracy, "{:.2f}"),
            _spread(Spread(group.parameters.mean / 1e6, group.parameters.deviation / 1e6), "{:.3f}"),
            _spread(Spread(group.flops.mean / 1e6, group.flops.deviation / 1e6), "{:.1f}"),
            "-".join(f"{block.mean:.0f}" for block in group.channels),
            f"{group.line.slope:.2f} i {group.line.offset:+.1f}",
            _spread(Spread(100 * group.residual.mean, 100 * group.residual.deviation), "{:.1f} %"),
        ]
        if published:
            theirs = published.groups[group.name]
            row += [
                f"{theirs.top1:.1f} ± {theirs.top1_spread:.1f}",
                f"{theirs.mflops:.0f} ± {theirs.mflops_spread:.0f}",
            ]
        rows.append(row)
    return rows


def comparison_lines(comparison: Comparison | None, nearer: Estimate | None, space: Space) -> list[str]:
    """Return sentences about straight lines, from the groups and the comparison."""
    lines = []
    if nearer:
        points = _interval(Estimate(*(100 * value for value in nearer)), "{:.1f}")
        lines += [f"Distance from a line, top minus bottom 10 %, in percent of the channels: {points}.", ""]
    if comparison:
        both = f"{_spread(comparison.line, '{:.2f}')} % against {_spread(comparison.stages, '{:.2f}')} %"
        cost = "equal parameters and MACs" if space.max_parameters and space.max_macs else "an equal limit"
        seeds = f"{quantity(comparison.seeds, 'seed')} each"
        reached = f"A straight line reaches {both} for the stage-wise convention at {cost}, {seeds}"
        less = f"; difference {_interval(comparison.difference, '{:.2f}')}" if comparison.difference else ""
        lines += [f"{reached}{less}.", ""]
    return lines


def predictors_table(known: Mapping[str, Estimate]) -> Rows:
    """Return the rank correlations of early predictors with the final accuracy."""
    head = ["known before the end of training", "rank correlation with final accuracy", "95 % interval"]
    return [
        head,
        *(
            [name, f"{estimate.value:.2f}", f"{estimate.low:.2f} to {estimate.high:.2f}"]
            for name, estimate in known.items()
        ),
    ]


def budgets_table(searches: Mapping[str, tuple[Space, Sequence[Candidate]]]) -> Rows:
    """Return the best candidate and the top group of each search, as in the paper's Fig. 4."""
    rows = [["search", "parameters M", "MACs M", "best", "top-1 %", "top 10 %: top-1 %", "mean channels", "line"]]
    for name, (space, candidates) in searches.items():
        best, top = rank_sampled(candidates)[0], split_groups(candidates, space)[0]
        mean = "-".join(f"{block.mean:.0f}" for block in top.channels)
        cost = [f"{best.parameters / 1e6:.3f}", f"{best.macs / 1e6:.1f}"]
        reached = [best.name, f"{best.accuracy:.2f}", _spread(top.accuracy, "{:.2f}")]
        rows.append([name, *cost, *reached, mean, f"{top.line.slope:.2f} i {top.line.offset:+.1f}"])
    return rows


def agreement_table(searches: Mapping[str, Sequence[Candidate]]) -> Rows:
    """Return each pair of searches that trained the same networks; only the header if there are none."""
    rows = [["search", "other search", "networks of both", "rank correlation", "95 % interval"]]
    for (name, found), (other, others) in combinations(searches.items(), 2):
        count, estimate = correlate_searches(found, others)
        if estimate:
            interval = f"{estimate.low:.2f} to {estimate.high:.2f}"
            rows.append([name, other, str(count), f"{estimate.value:.2f}", interval])
    return rows


def front_table(study: "optuna.Study", settings: SearchConfig) -> Rows:
    """Return the Pareto front of a search with several objectives."""
    objectives = settings.engine.objectives
    rows = [["channels", *objectives, "off a line"]]
    best = {tuple(trial.user_attrs["channels"]): trial.values for trial in study.best_trials}
    for channels, values in sorted(best.items(), key=lambda item: item[1]):
        reached = [format_value(name, value) for name, value in zip(objectives, values, strict=True)]
        rows.append(["-".join(map(str, channels)), *reached, f"{fit_line(channels).residual:.1%}"])
    return rows


def candidates_table(candidates: Sequence[Candidate], settings: SearchConfig) -> list[list[Any]]:
    """Return every candidate with its values, cost, line and scores."""
    objectives = settings.engine.objectives
    scores = sorted({name for row in candidates for name in row.scores})
    head = ["number", "channels", "comparison", "state", *objectives, "parameters", "macs", "published_flops"]
    rows: list[list[Any]] = [[*head, "slope", "offset", "residual", "latency_ms", "seconds", "accuracies", *scores]]
    for row in candidates:
        values = row.values or [None] * len(objectives)
        kind = [row.number, row.name, row.comparison, "pruned" if row.pruned else "complete"]
        line = [f"{value:.6g}" for value in fit_line(row.channels)]
        flops = settings.space.cost(row.channels).published_flops
        trained = [row.latency_ms, row.seconds, " ".join(map(str, row.accuracies))]
        rows.append([*kind, *values, row.parameters, row.macs, flops, *line, *trained, *map(row.scores.get, scores)])
    return rows


def _spread(spread: Spread, form: str) -> str:
    unit = form.partition("}")[2]
    number = form.removesuffix(unit)
    return f"{number.format(spread.mean)} ± {number.format(spread.deviation)}{unit}"


def _interval(estimate: Estimate, form: str) -> str:
    low, high = form.format(estimate.low), form.format(estimate.high)
    return f"{form.format(estimate.value)} (95 % interval {low} to {high})"
