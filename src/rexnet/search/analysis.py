"""Statistics of a search: groups by accuracy, their channels and lines, and predictors of accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rexnet.search.results import Candidate
from rexnet.search.shape import Line, fit_line
from rexnet.search.space import Space

_GROUP_FRACTION = 0.1
FEWEST_IN_GROUPS = 3
_FEWEST_PAIRS = 4
"""Minimum number of pairs for a rank correlation with an interval."""


class Spread(NamedTuple):
    """Mean and standard deviation, which is 0 for one value."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Statistics of a tenth of the candidates, as in Table 3 and Fig. 2 of the paper."""

    name: str
    size: int
    accuracy: Spread
    parameters: Spread
    flops: Spread
    """FLOPs as the paper counts them, see `BodyCost.published_flops`."""
    channels: tuple[Spread, ...]
    """Channels of each block."""
    line: Line
    """Line fitted to the mean channels."""
    residual: Spread
    """Residual of each candidate's own line."""


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Networks of equal cost, each trained with several seeds; accuracies in percent."""

    line: Spread
    stages: Spread
    seeds: int
    difference: Estimate | None
    """Mean of the line minus mean of the stages, with an interval by Welch's t; None with one seed."""


def rank_sampled(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the distinct sampled networks that were trained to the end, best first."""
    trained = [row for row in candidates if row.comparison is None and row.accuracy is not None]
    different = {row.channels: row for row in reversed(trained)}  # the trained trial, not a repetition
    return sorted(different.values(), key=lambda row: (-(row.accuracy or 0.0), row.number))


def split_groups(candidates: Sequence[Candidate], space: Space) -> list[Group]:
    """Return the best, middle and worst tenth, at least one candidate each. Raise ValueError for fewer than three."""
    ranked = rank_sampled(candidates)
    if len(ranked) < FEWEST_IN_GROUPS:
        raise ValueError(f"the search has {len(ranked)} trained candidates; a report needs three or more")
    size = max(1, round(_GROUP_FRACTION * len(ranked)))
    middle = (len(ranked) - size) // 2
    parts = {"top": ranked[:size], "middle": ranked[middle : middle + size], "bottom": ranked[-size:]}
    return [_group(name, rows, space) for name, rows in parts.items()]


def _group(name: str, rows: Sequence[Candidate], space: Space) -> Group:
    channels = tuple(Spread.of(block) for block in zip(*(row.channels for row in rows), strict=True))
    return Group(
        name=name,
        size=len(rows),
        accuracy=Spread.of([row.accuracy or 0.0 for row in rows]),
        parameters=Spread.of([row.parameters for row in rows]),
        flops=Spread.of([space.cost(row.channels).published_flops for row in rows]),
        channels=channels,
        line=fit_line([block.mean for block in channels]),
        residual=Spread.of([fit_line(row.channels).residual for row in rows]),
    )


def correlate_predictors(candidates: Sequence[Candidate]) -> dict[str, Estimate]:
    """Return the rank correlations of everything known before the end of training with the final accuracy."""
    ranked = rank_sampled(candidates)
    accuracy = [row.accuracy or 0.0 for row in ranked]
    columns: dict[str, list[float]] = {}
    epochs = min((len(curve) for row in ranked for curve in row.by_epoch), default=0)
    for epoch in range(epochs - 1):
        name = f"accuracy after epoch {epoch + 1}"
        columns[name] = [float(np.mean([curve[epoch] for curve in row.by_epoch])) for row in ranked]
    for score in ranked[0].scores if ranked else ():
        columns[f"{score.replace('_', ' ')}, untrained"] = [row.scores[score] for row in ranked]
    columns["parameters"] = [float(row.parameters) for row in ranked]
    columns["MACs"] = [float(row.macs) for row in ranked]
    columns["distance from a line"] = [fit_line(row.channels).residual for row in ranked]
    found = {name: rank_correlation(values, accuracy) for name, values in columns.items()}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Return Spearman's coefficient, with the interval of Bonett and Wright (2000); None for fewer than four pairs or
    no spread."""
    from scipy.stats import spearmanr

    if len(first) < _FEWEST_PAIRS or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    value = float(spearmanr(first, second)[0])  # pyright: ignore[reportArgumentType]
    half = 1.96 * math.sqrt((1 + value**2 / 2) / (len(first) - 3))
    middle = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, value)))
    return Estimate(value, math.tanh(middle - half), math.tanh(middle + half))


def correlate_searches(first: Sequence[Candidate], second: Sequence[Candidate]) -> tuple[int, Estimate | None]:
    """Return the number of networks trained by both searches, and the rank correlation of their accuracies, which shows
    whether cheaper training ranks them alike."""
    reached = {row.channels: row.accuracy or 0.0 for row in rank_sampled(second)}
    both = [(row.accuracy or 0.0, reached[row.channels]) for row in rank_sampled(first) if row.channels in reached]
    return len(both), rank_correlation([one for one, _ in both], [other for _, other in both])


def compare_line_and_stages(candidates: Sequence[Candidate]) -> Comparison | None:
    """Compare the straight line with the stage-wise convention; None if either is missing."""
    by_kind = {
        kind: [row.accuracy for row in candidates if row.comparison == kind and row.accuracy is not None]
        for kind in ("line", "stages")
    }
    line, stages = by_kind["line"], by_kind["stages"]
    if not line or not stages:
        return None
    seeds = min(len(line), len(stages))
    return Comparison(Spread.of(line), Spread.of(stages), seeds, _difference(line, stages))


def _difference(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    from scipy.stats import ttest_ind

    if min(len(first), len(second)) < 2 or not (np.std(first) or np.std(second)):
        return None
    low, high = ttest_ind(first, second, equal_var=False).confidence_interval()
    return Estimate(float(np.mean(first) - np.mean(second)), float(low), float(high))


def compare_residuals(candidates: Sequence[Candidate]) -> Estimate | None:
    """Return the distance from a line, top tenth minus bottom tenth: below 0 if the best are nearer. Interval by
    Welch's t; None with fewer than two candidates in a group."""
    ranked = rank_sampled(candidates)
    size = max(1, round(_GROUP_FRACTION * len(ranked)))
    top, bottom = ([fit_line(row.channels).residual for row in rows] for rows in (ranked[:size], ranked[-size:]))
    return _difference(top, bottom)
