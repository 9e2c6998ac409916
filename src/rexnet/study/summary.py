"""From the rows of the study's CSV to mean, spread and confidence interval of each cell."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rexnet.study.sweep import COLUMNS, KIND
from rexnet.study.tables import read_table

_SUMS = COLUMNS.index("rank_ratio_sum")
"""The column from which on a row holds sums over its networks."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Networks of one block, activation and ratio. Ranks are over output channels."""

    block: str
    activation: str
    ratio: float
    networks: int
    mean: float
    deviation: float
    """Standard deviation over networks."""
    others: dict[str, float]
    """Means of effective_rank_ratio, stable_rank_ratio and nuclear_norm, where they were taken."""

    @property
    def interval(self) -> float:
        """Half the width of the 95 % confidence interval of the mean."""
        return 1.96 * self.deviation / math.sqrt(self.networks)


def read_rows(path: str | os.PathLike[str]) -> tuple[list[str], list[list[str]]]:
    """Columns and whole rows of the study's CSV; a torn last line is left out."""
    return read_table(path, kind=KIND)


def summarise(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[Cell]:
    """One Cell for each block, activation and ratio, in the order in which they appear."""
    by_cell: dict[tuple[str, str, float], list[Sequence[str]]] = {}
    for row in rows:
        by_cell.setdefault((row[0], row[1], float(row[2])), []).append(row)
    cells = []
    for (block, activation, ratio), parts in by_cell.items():
        count = sum(int(part[4]) for part in parts)
        totals = [math.fsum(float(part[place]) for part in parts) for place in range(_SUMS, len(columns))]
        mean = totals[0] / count
        variance = max(0.0, totals[1] - count * mean * mean) / max(1, count - 1)
        names = (name.removesuffix("_sum") for name in columns[_SUMS + 2 :])
        cells.append(
            Cell(
                block=block,
                activation=activation,
                ratio=ratio,
                networks=count,
                mean=mean,
                deviation=math.sqrt(variance),
                others={name: total / count for name, total in zip(names, totals[2:], strict=True)},
            )
        )
    return cells


def cell_means(rows: Iterable[Sequence[str]], block: str) -> dict[str, dict[float, float]]:
    """Mean rank over output channels of a block, by activation and ratio."""
    means: dict[str, dict[float, float]] = {}
    for cell in summarise(COLUMNS, (row[: len(COLUMNS)] for row in rows if row[0] == block)):
        means.setdefault(cell.activation, {})[cell.ratio] = cell.mean
    return means


def summary_csv(cells: Sequence[Cell]) -> str:
    """The cells as a table with a header."""
    others = list(cells[0].others) if cells else []
    names = ["block", "activation", "ratio", "networks", "mean", "deviation", "interval_95", *others]
    lines = [",".join(names)]
    for cell in cells:
        figures = [cell.mean, cell.deviation, cell.interval, *(cell.others[name] for name in others)]
        head = f"{cell.block},{cell.activation},{cell.ratio!r},{cell.networks}"
        lines.append(f"{head},{','.join(f'{figure:.6g}' for figure in figures)}")
    return "\n".join(lines) + "\n"
