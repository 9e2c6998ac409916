"""The study over all cells, into a CSV that can be stopped, resumed and extended, on one machine or many."""

import math
import os
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch

from rexnet.ranks.matrix_rank import (
    count_rank,
    effective_rank,
    nuclear_norm,
    numerical_rank,
    singular_values,
    stable_rank,
)
from rexnet.study.jobs import Workers, in_order
from rexnet.study.networks import find_block, generator_for
from rexnet.study.protocol import Protocol, outputs
from rexnet.study.tables import append_rows, open_table

CHUNK = 50
"""Networks of a row. Fixed, so that the same networks share a row however many there are."""
COLUMNS = ("block", "activation", "ratio", "first_network", "networks", "rank_ratio_sum", "rank_ratio_square_sum")
SPECTRUM_COLUMNS = ("effective_rank_ratio_sum", "stable_rank_ratio_sum", "nuclear_norm_sum")
KIND = "rexnet study rank"
"""Of the table."""


class Task(NamedTuple):
    """Networks `first` to `first + CHUNK` of a block and ratio; all activations see the same weights and inputs."""

    block: str
    ratio: float
    first: int


def list_tasks(protocol: Protocol, networks: int) -> list[Task]:
    """In the order of the rows: more networks are more tasks at the end."""
    return [
        Task(block, ratio, first)
        for first in range(0, networks, CHUNK)
        for block in protocol.blocks
        for ratio in protocol.ratios
    ]


def measure(protocol: Protocol, task: Task) -> list[list[str]]:
    """The rows of a task, one an activation; sums are correctly rounded, so that no order of adding shows."""
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
    # Inner widths differ from network to network; the outputs of one size are ranked together nonetheless.
    by_shape: dict[torch.Size, list[torch.Tensor]] = {}
    for batch in by_size.values():
        matrices = outputs(protocol, block, batch=batch, activations=protocol.activations)
        by_shape.setdefault(matrices.shape[2:], []).append(matrices)
    figures: list[list[tuple[float, ...]]] = [[] for _ in protocol.activations]
    for parts in by_shape.values():
        matrices = torch.cat(parts, 1)
        found = iter(_figures(matrices.flatten(0, 1), protocol))
        for of_activation in figures:
            of_activation += islice(found, matrices.shape[1])
    head = [repr(task.ratio), str(task.first), str(CHUNK)]
    return [
        [task.block, activation, *head, *(repr(math.fsum(column)) for column in zip(*part, strict=True))]
        for activation, part in zip(protocol.activations, figures, strict=True)
    ]


def _figures(matrices: torch.Tensor, protocol: Protocol) -> list[tuple[float, ...]]:
    """Of each matrix (B, out channels, samples) what the columns sum."""
    channels = matrices.shape[1]
    if not protocol.spectra:
        ratios = [rank / channels for rank in count_rank(matrices, tolerance=protocol.tolerance).tolist()]
        return [(ratio, ratio * ratio) for ratio in ratios]
    ratios = [rank / channels for rank in numerical_rank(matrices, tolerance=protocol.tolerance).tolist()]
    values = singular_values(matrices)
    columns = (effective_rank(values) / channels, stable_rank(values) / channels, nuclear_norm(values))
    spectra = zip(*(column.tolist() for column in columns), strict=True)
    return [(ratio, ratio * ratio, *rest) for ratio, rest in zip(ratios, spectra, strict=True)]


def sweep(protocol: Protocol, *, networks: int, path: str | os.PathLike[str], workers: Workers) -> Iterator[int]:
    """Brings the CSV at `path` to that many networks a cell; yields the number of rows that are there, as they come.

    ValueError for a file of another protocol.
    """
    columns = (*COLUMNS, *(SPECTRUM_COLUMNS if protocol.spectra else ()))
    tasks, each = list_tasks(protocol, networks), len(protocol.activations)
    done = open_table(path, kind=KIND, settings=protocol.as_dict(), columns=columns, rows_a_task=each)
    yield done * each
    if done >= len(tasks):
        return  # and no worker is started
    for number, rows in enumerate(in_order(partial(measure, protocol), tasks[done:], workers), start=done + 1):
        append_rows(path, rows)
        yield number * each
