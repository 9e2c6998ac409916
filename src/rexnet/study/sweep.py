"""The study over all cells, into a CSV that can be stopped, resumed and extended, on one machine or many."""

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch

from rexnet.models.rank import count_rank, effective_rank, nuclear_norm, numerical_rank, singular_values, stable_rank
from rexnet.study.networks import find_block, generator_for
from rexnet.study.protocol import Protocol, outputs
from rexnet.study.tables import append_rows, open_table

CHUNK = 50
"""Networks of a row. Fixed, so that the same networks share a row however many there are."""
COLUMNS = ("block", "activation", "ratio", "first_network", "networks", "rank_ratio_sum", "rank_ratio_square_sum")
SPECTRUM_COLUMNS = ("effective_rank_ratio_sum", "stable_rank_ratio_sum", "nuclear_norm_sum")
KIND = "rexnet study rank"
"""Of the table."""
Backend = Literal["loky", "threading", "dask", "ray"]


class Task(NamedTuple):
    """Networks `first` to `first + CHUNK` of a block and ratio; all activations see the same weights and inputs."""

    block: str
    ratio: float
    first: int


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where the work is done."""

    processes: int = 1
    backend: Backend = "loky"
    address: str | None = None


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
    for number, rows in enumerate(run_tasks(protocol, tasks[done:], workers), start=done + 1):
        append_rows(path, rows)
        yield number * each


def run_tasks(protocol: Protocol, tasks: list[Task], workers: Workers) -> Iterator[list[list[str]]]:
    """The rows of each task in the order of the tasks, whoever is done first."""
    if workers.processes == 1 and workers.backend == "loky":
        yield from (measure(protocol, task) for task in tasks)
        return
    try:
        import joblib
    except ImportError as error:
        raise ValueError("--processes and --backend need joblib: pip install 'rexnet[study]'") from error
    # A batch is sent ahead of every worker, and no more: memory stays flat however long the list is.
    with _cluster(workers), joblib.parallel_config(workers.backend, n_jobs=workers.processes):
        options: dict[str, Any] = {"return_as": "generator", "batch_size": 1, "pre_dispatch": "3*n_jobs"}
        run: Any = joblib.Parallel(**options)
        yield from run(joblib.delayed(measure)(protocol, task) for task in tasks)


def _cluster(workers: Workers) -> AbstractContextManager[Any]:
    """The connection to the cluster that the joblib backend of the same name uses."""
    if workers.backend == "dask":
        try:
            from distributed import Client
        except ImportError as error:
            raise ValueError("--backend dask needs Dask: pip install 'rexnet[dask]'") from error
        return Client(workers.address)
    if workers.backend == "ray":
        try:
            import ray  # pyright: ignore[reportMissingImports]
            from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError("--backend ray needs Ray: pip install 'ray[default]'") from error
        ray.init(address=workers.address)
        register_ray()
    return nullcontext()
