"""The paper's Table 2: four networks of two bottlenecks, changed one factor at a time at equal cost, and their results.

Published: the three factors, MACs, top-1 and nuclear norm. Derived: with strides 2 and 2, a stem of 16 channels and a
last convolution to 1280, as in the paper's search networks, the baseline's ratios yield its MACs. Our choice: the stem
width of each network is solved for its MACs, and stem and last convolution always use ReLU6.
"""

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from rexnet.figures import write_figure
from rexnet.models.config import BlockSpec, RexNetConfig
from rexnet.study.tables import read_table
from rexnet.text import csv_text

IMAGE_PX = 32
STRIDE = 2
"""Stride of both bottlenecks."""
PENULTIMATE_CHANNELS = 1280
CLASSES = 100
"""Number of classes of CIFAR-100, for which the published MACs are counted."""
_MOST_CHANNELS = 4096

TABLE, KIND = "factors.csv", "rexnet study factors"


@dataclass(frozen=True)
class Factor:
    """A row of Table 2."""

    name: str
    title: str
    expansion: int
    """Ratio of expanded to input channels in both bottlenecks; the paper states its inverse, the ratio of the first 1x1
    convolution."""
    ratio: float
    """Ratio of input to output channels of both bottlenecks."""
    activation: str
    """Activation after the expanding convolution."""
    macs: float
    """Published MACs; the next two fields are published as well."""
    top1: float
    nuclear_norm: float


_BASELINE = "baseline: 1x1 ratio 1/20, bottleneck ratio .22, ReLU6"
FACTORS = (
    Factor("baseline", _BASELINE, 20, 0.22, "relu6", macs=103e6, top1=48.0, nuclear_norm=5997.5),
    Factor("expansion", "+ 1x1 ratio 1/20 to 1/6", 6, 0.22, "relu6", macs=99e6, top1=52.1, nuclear_norm=6655.9),
    Factor("ratio", "+ bottleneck ratio .22 to .8", 6, 0.8, "relu6", macs=105e6, top1=53.8, nuclear_norm=6703.2),
    Factor("activation", "+ ReLU6 to SiLU", 6, 0.8, "silu", macs=105e6, top1=54.6, nuclear_norm=6895.9),
)
"""Rows of Table 2; each includes the changes of all rows above it."""


def network(factor: Factor, *, scale: float = 1.0) -> RexNetConfig:
    """Return the network for images of 32 pixels with `scale` times the published MACs.

    Raise ValueError for a scale at which integer channels cannot approximate the ratios and MACs.
    """
    penultimate = round(PENULTIMATE_CHANNELS * scale**0.5)
    channels = _solve(factor.expansion, factor.ratio, macs=scale * factor.macs, penultimate=penultimate)
    blocks = tuple(
        BlockSpec(
            in_channels=before,
            expanded_channels=factor.expansion * before,
            out_channels=after,
            stride=STRIDE,
            expand_activation=factor.activation,
        )
        for before, after in pairwise(channels)
    )
    return RexNetConfig(
        name=f"two_bottlenecks_{factor.name}" + ("" if scale == 1 else f"_x{scale:g}"),
        blocks=blocks,
        stem_channels=channels[0],
        stem_stride=1,
        activation="relu6",
        penultimate_channels=penultimate,
        num_classes=CLASSES,
        drop_rate=0.0,
    )


@cache
def _solve(expansion: int, ratio: float, *, macs: float, penultimate: int) -> tuple[int, int, int]:
    """Find the channels of the stem and after each bottleneck that minimise the largest relative error among the MACs
    and both ratios."""

    def error(channels: tuple[int, int, int]) -> float:
        found = count_macs(channels, expansion=expansion, penultimate=penultimate)
        ratios = (before / after / ratio - 1 for before, after in pairwise(channels))
        return max(abs(found / macs - 1), *map(abs, ratios))

    candidates = ((round(last * ratio**2), round(last * ratio), last) for last in range(1, _MOST_CHANNELS))
    best = min((channels for channels in candidates if channels[0]), key=error)
    if error(best) > 0.1:
        raise ValueError(
            f"with {macs / 1e6:.3g} M MACs no integer number of stem channels comes within 10 % of ratio {ratio:g}; "
            "allowed: a "
            "scale nearer 1"
        )
    return best


def count_macs(channels: tuple[int, int, int], *, expansion: int, penultimate: int) -> int:
    """Count the MACs of stem, bottlenecks, last convolution and classifier as `measure_cost` does."""
    positions = IMAGE_PX**2
    total = positions * 3 * 3**2 * channels[0]
    for before, after in pairwise(channels):
        expanded = expansion * before
        total += positions * before * expanded
        positions //= STRIDE**2
        total += positions * expanded * (3**2 + after)
    return total + positions * channels[-1] * penultimate + penultimate * CLASSES


@dataclass(frozen=True, kw_only=True)
class FactorRow:
    """A row of factors.csv: one network with one seed; `samples` to `stable_rank` describe its final features."""

    network: str
    seed: int
    macs: int
    parameters: int
    top1: float | None
    """Percent of the validation images after the last epoch; None if it was not trained."""
    samples: int
    nuclear_norm: float
    effective_rank: float
    stable_rank: float
    seconds: float
    """Duration of training and measurement."""


COLUMNS = tuple(field.name for field in fields(FactorRow))


class Mean(NamedTuple):
    """Mean over seeds and its spread."""

    mean: float
    deviation: float | None
    """Standard deviation; None for a single seed."""


@dataclass(frozen=True, kw_only=True)
class FactorSummary:
    """Summary of one network over its seeds. A step is the difference from the network above with the same seed."""

    factor: Factor
    channels: tuple[int, ...]
    """Channels of the stem and after each bottleneck."""
    macs: int
    seeds: int
    top1: Mean | None
    top1_step: Mean | None
    nuclear_norm: Mean
    nuclear_norm_step: Mean | None
    effective_rank: Mean


def read_factors(path: Path) -> list[FactorRow]:
    """Read the complete rows of a factors.csv."""
    columns, rows = read_table(path, kind=KIND)
    kinds: dict[str, Any] = {"network": str, "seed": int, "macs": int, "parameters": int, "samples": int}
    found = []
    for row in rows:
        texts = zip(columns, row, strict=True)
        values: dict[str, Any] = {name: kinds.get(name, float)(text) if text else None for name, text in texts}
        found.append(FactorRow(**values))
    return found


def summarise(rows: Sequence[FactorRow], *, scale: float) -> list[FactorSummary]:
    """Summarise networks of this scale in the order of FACTORS, skipping a last seed that lacks some of them."""
    rows = rows[: len(rows) // len(FACTORS) * len(FACTORS)]
    found: list[FactorSummary] = []
    above: dict[int, FactorRow] = {}
    for factor in FACTORS:
        runs = {row.seed: row for row in rows if row.network == factor.name}
        blocks = network(factor, scale=scale).blocks
        trained = all(row.top1 is not None for row in runs.values())
        found.append(
            FactorSummary(
                factor=factor,
                channels=(blocks[0].in_channels, *(block.out_channels for block in blocks)),
                macs=next(iter(runs.values())).macs,
                seeds=len(runs),
                top1=_mean(runs, "top1") if trained else None,
                top1_step=_mean(runs, "top1", above=above) if trained and above else None,
                nuclear_norm=_mean(runs, "nuclear_norm"),
                nuclear_norm_step=_mean(runs, "nuclear_norm", above=above) if above else None,
                effective_rank=_mean(runs, "effective_rank"),
            )
        )
        above = runs
    return found


def _mean(runs: Mapping[int, FactorRow], name: str, *, above: Mapping[int, FactorRow] | None = None) -> Mean:
    """Average a field of the runs, which are keyed by seed, or its difference from the runs `above` with the same
    seeds."""
    values = [getattr(run, name) - (getattr(above[seed], name) if above else 0.0) for seed, run in runs.items()]
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def summary_csv(summaries: Sequence[FactorSummary]) -> str:
    """Return the summaries and the published values as a table."""
    means = ("top1", "top1_step", "nuclear_norm", "nuclear_norm_step", "effective_rank")
    head = ["network", "channels", "macs", "macs_published", "seeds", "top1_published", "nuclear_norm_published"]
    rows: list[list[object]] = [[*head, *(f"{name}_{part}" for name in means for part in Mean._fields)]]
    for summary in summaries:
        factor = summary.factor
        row = [factor.name, "-".join(map(str, summary.channels)), summary.macs, round(factor.macs), summary.seeds]
        values = [value for name in means for value in getattr(summary, name) or (None, None)]
        texts = [None if value is None else f"{value:.6g}" for value in values]
        rows.append([*row, factor.top1, factor.nuclear_norm, *texts])
    return csv_text(rows)


def plot_factors(summaries: Sequence[FactorSummary], stem: str | os.PathLike[str]) -> list[Path]:
    """Plot top-1 and nuclear norm relative to the first network's, measured (with the standard deviation over seeds)
    and published, to STEM.png and STEM.svg."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    first, places = summaries[0], range(len(summaries))
    scale = first.nuclear_norm.mean or 1.0
    top1 = [Mean(one.top1.mean - first.top1.mean, one.top1.deviation) for one in summaries if one.top1 and first.top1]
    norms = [Mean(one.nuclear_norm.mean / scale, (one.nuclear_norm.deviation or 0.0) / scale) for one in summaries]
    panels = {
        "top-1, points above the first": ([one.factor.top1 - first.factor.top1 for one in summaries], top1),
        "nuclear norm of the final features / first": (
            [one.factor.nuclear_norm / first.factor.nuclear_norm for one in summaries],
            norms,
        ),
    }
    for panel, (label, (published, measured)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        panel.plot(places, published, "o--", color="#555555", fillstyle="none", label="published")
        if measured:
            means, deviations = zip(*((one.mean, one.deviation or 0.0) for one in measured), strict=True)
            panel.errorbar(places, means, yerr=deviations, fmt="o-", color="C3", capsize=3, label="measured")
        panel.set_ylabel(label)
        panel.set_xticks(list(places), [fill(one.factor.title, 16) for one in summaries], fontsize=7)
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8)
    return write_figure(figure, stem)
