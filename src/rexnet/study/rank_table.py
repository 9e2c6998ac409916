"""The resumable and extensible table ranks.csv, computed on one machine or many, and its summary."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch

from rexnet.errors import MissingPackageError
from rexnet.processes import in_parallel, log_progress, usable_cpus
from rexnet.ranks.matrix_rank import (
    count_rank,
    effective_rank,
    nuclear_norm,
    numerical_rank,
    singular_values,
    stable_rank,
)
from rexnet.study.config import CHUNK
from rexnet.study.networks import find_block, generator_for, outputs
from rexnet.study.protocol import Protocol
from rexnet.study.tables import append_rows, open_table, read_table

COLUMNS = ("block", "activation", "ratio", "first_network", "networks", "rank_ratio_sum", "rank_ratio_square_sum")
SPECTRUM_COLUMNS = ("effective_rank_ratio_sum", "stable_rank_ratio_sum", "nuclear_norm_sum")
TABLE, KIND = "ranks.csv", "rexnet study rank"
_SUMS = COLUMNS.index("rank_ratio_sum")
"""First column that holds sums over the networks of a row."""
_SENT_AHEAD = 1000
"""Number of tasks queued on a cluster: more than its cores, and few enough to keep memory constant."""


class Task(NamedTuple):
    """Networks `first` to `first + CHUNK` of a block and ratio; all activations see the same weights and inputs."""

    block: str
    ratio: float
    first: int


def list_tasks(protocol: Protocol, networks: int) -> list[Task]:
    """List the tasks in the order of the rows; more networks add tasks at the end."""
    return [
        Task(block, ratio, first)
        for first in range(0, networks, CHUNK)
        for block in protocol.blocks
        for ratio in protocol.ratios
    ]


def extend_table(
    path: str | os.PathLike[str], protocol: Protocol, *, networks: int, processes: int = 1, address: str | None = None
) -> None:
    """Extend the table to that many networks per cell, in processes of this machine (-1: one for each core) or on the
    Dask cluster at `address`. Raise ValueError for a table with another protocol."""
    columns = (*COLUMNS, *(SPECTRUM_COLUMNS if protocol.spectra else ()))
    settings, task = protocol.as_dict(), partial(measure, protocol)
    done = open_table(path, kind=KIND, settings=settings, columns=columns, rows_a_task=len(protocol.activations))
    waiting = list_tasks(protocol, networks)[done:]
    if address is not None and waiting:
        measured = log_progress(_on_cluster(task, waiting, address), len(waiting), label="ranks")
    else:
        workers = {1: 0, -1: usable_cpus()}.get(processes, processes)
        measured = in_parallel(task, waiting, workers=workers, label="ranks")
    for rows in measured:
        append_rows(path, rows)


def _on_cluster(task: Callable[[Task], list[list[str]]], tasks: list[Task], address: str) -> Iterator[list[list[str]]]:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackageError("--address", "distributed", "'rexnet[dask]'") from error
    with Client(address) as client:
        running = deque(client.submit(task, each) for each in tasks[:_SENT_AHEAD])
        for number in range(len(tasks)):
            yield running.popleft().result()
            running.extend(client.submit(task, each) for each in tasks[number + _SENT_AHEAD :][:1])


def measure(protocol: Protocol, task: Task) -> list[list[str]]:
    """Return the rows of a task, one per activation; sums are correctly rounded, so the order of addition does not
    matter."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(protocol, task)
    finally:
        torch.set_num_threads(threads)


def _measure(protocol: Protocol, task: Task) -> list[list[str]]:
    block = find_block(task.block)
    by_size: dict[Any, list[list[torch.Tensor]]] = {}
    for network in range(task.first, task.first + CHUNK):
        generator = generator_for(protocol.seed, task.block, ratio=task.ratio, network=network)
        size = protocol.draw_size(block, ratio=task.ratio, generator=generator)
        by_size.setdefault(size, []).append(protocol.draw_tensors(block, size, generator))
    # Rank all outputs of one size together, although the inner widths differ from network to network.
    by_shape: dict[torch.Size, list[torch.Tensor]] = {}
    for batch in by_size.values():
        matrices = outputs(protocol, block, batch=batch, activations=protocol.activations)
        by_shape.setdefault(matrices.shape[2:], []).append(matrices)
    summands: list[list[tuple[float, ...]]] = [[] for _ in protocol.activations]
    for parts in by_shape.values():
        matrices = torch.cat(parts, 1)
        found = iter(_summands(matrices.flatten(0, 1), protocol))
        for of_activation in summands:
            of_activation += islice(found, matrices.shape[1])
    head = [repr(task.ratio), str(task.first), str(CHUNK)]
    return [
        [task.block, activation, *head, *(repr(math.fsum(column)) for column in zip(*part, strict=True))]
        for activation, part in zip(protocol.activations, summands, strict=True)
    ]


def _summands(matrices: torch.Tensor, protocol: Protocol) -> list[tuple[float, ...]]:
    """Return the values that the columns sum, for each of the matrices (B, out channels, samples)."""
    channels = matrices.shape[1]
    count = numerical_rank if protocol.spectra else count_rank
    ratios = [rank / channels for rank in count(matrices, tolerance=protocol.tolerance).tolist()]
    if not protocol.spectra:
        return [(ratio, ratio * ratio) for ratio in ratios]
    values = singular_values(matrices)
    columns = (effective_rank(values) / channels, stable_rank(values) / channels, nuclear_norm(values))
    spectra = zip(*(column.tolist() for column in columns), strict=True)
    return [(ratio, ratio * ratio, *rest) for ratio, rest in zip(ratios, spectra, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Ranks of the networks of one block, activation and ratio, over output channels."""

    block: str
    activation: str
    ratio: float
    networks: int
    mean: float
    deviation: float
    """Standard deviation over networks."""
    others: dict[str, float]
    """Means of effective_rank_ratio, stable_rank_ratio and nuclear_norm, if they were measured."""

    @property
    def interval(self) -> float:
        """Half the width of the 95 % confidence interval of the mean."""
        return 1.96 * self.deviation / math.sqrt(self.networks)


def read_rows(path: str | os.PathLike[str]) -> tuple[list[str], list[list[str]]]:
    """Read columns and complete rows of a ranks.csv, skipping a torn last line."""
    return read_table(path, kind=KIND)


def summarise(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[Cell]:
    """Return one Cell for each block, activation and ratio, in the order in which they appear."""
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
    """Return the mean rank over output channels of a block, by activation and ratio."""
    means: dict[str, dict[float, float]] = {}
    for cell in summarise(COLUMNS, (row[: len(COLUMNS)] for row in rows if row[0] == block)):
        means.setdefault(cell.activation, {})[cell.ratio] = cell.mean
    return means


def summary_csv(cells: Sequence[Cell]) -> str:
    """Return the cells as a table with a header."""
    others = list(cells[0].others) if cells else []
    lines = [f"block,activation,ratio,networks,{','.join(('mean', 'deviation', 'interval_95', *others))}\n"]
    for cell in cells:
        values = [cell.mean, cell.deviation, cell.interval, *(cell.others[name] for name in others)]
        head = f"{cell.block},{cell.activation},{cell.ratio!r},{cell.networks}"
        lines.append(f"{head},{','.join(f'{value:.6g}' for value in values)}\n")
    return "".join(lines)
