"""The study over all cells, into a CSV that can be stopped, resumed and extended, on one machine or many."""

import csv
import io
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from rexnet.data.decode import printable
from rexnet.data.output_files import write_whole
from rexnet.models.rank import count_rank, effective_rank, nuclear_norm, numerical_rank, singular_values, stable_rank
from rexnet.study.networks import find_block, generator_for
from rexnet.study.protocol import Protocol, outputs

logger = logging.getLogger(__name__)

CHUNK = 50
"""Networks of a row. Fixed, so that the same networks share a row however many there are."""
COLUMNS = ("block", "activation", "ratio", "first_network", "networks", "rank_ratio_sum", "rank_ratio_square_sum")
SPECTRUM_COLUMNS = ("effective_rank_ratio_sum", "stable_rank_ratio_sum", "nuclear_norm_sum")
HEADER = "# rexnet study rank "
"""A table begins with this and its protocol."""
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
    rows = []
    for activation in protocol.activations:
        # Inner widths differ from network to network; the outputs of one size are ranked together nonetheless.
        by_shape: dict[torch.Size, list[torch.Tensor]] = {}
        for batch in by_size.values():
            matrices = outputs(protocol, block, batch=batch, activation=activation)
            by_shape.setdefault(matrices.shape[1:], []).append(matrices)
        figures = [figure for parts in by_shape.values() for figure in _figures(torch.cat(parts), protocol)]
        sums = [math.fsum(column) for column in zip(*figures, strict=True)]
        rows.append([task.block, activation, repr(task.ratio), str(task.first), str(CHUNK), *map(repr, sums)])
    return rows


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
    header = f"{HEADER}{json.dumps(protocol.as_dict())}\n{','.join(columns)}\n"
    tasks, each = list_tasks(protocol, networks), len(protocol.activations)
    path = Path(path)
    done = _open_table(path, header, each)
    yield done * each
    remaining = tasks[done:]
    if not remaining:
        return
    with path.open("a", encoding="utf-8", newline="") as file:
        for number, rows in enumerate(run_tasks(protocol, remaining, workers), start=done + 1):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            file.write(text.getvalue())
            file.flush()
            yield number * each


def _open_table(path: Path, header: str, rows_a_task: int) -> int:
    """Makes the table or cuts it back to its last whole task; returns the number of tasks in it."""
    if not path.exists() or not path.stat().st_size:
        write_whole(path, header)
        return 0
    content = path.read_bytes()
    wanted = header.encode("utf-8")
    if not content.startswith(wanted):
        raise ValueError(f"{printable(path)} {_difference(content, header)}; name another file or move this one away")
    lines = content[len(wanted) :].split(b"\n")[:-1]
    whole = len(lines) // rows_a_task
    end = len(wanted) + sum(len(line) + 1 for line in lines[: whole * rows_a_task])
    if end < len(content):
        logger.info("%s ends in the middle of a task, which is made anew", printable(path))
        os.truncate(path, end)
    return whole


def _difference(content: bytes, header: str) -> str:
    first, wanted = content.split(b"\n", 1)[0].decode("utf-8", "replace"), header.split("\n", 1)[0]
    try:
        have = json.loads(first.removeprefix(HEADER))
        asked = json.loads(wanted.removeprefix(HEADER))
        name = next(name for name in asked if have.get(name) != asked[name])
    except (ValueError, StopIteration, AttributeError):
        return "is no table of the rank study"
    return f"was made with --{name.replace('_', '-')} {have.get(name)}, not {asked[name]}"


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
