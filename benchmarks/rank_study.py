"""Seconds of the rank study beside a plain loop over single networks with torch.linalg.matrix_rank.

Both make the same networks from the same draws and take turns within every round; the study runs on two processes as
`rexnet study rank --processes 2` does, the loop on one with two threads, as torch would. The ranks must be equal.
"""

import json
import math
import statistics
import time
from dataclasses import dataclass
from functools import partial

import torch
import tyro

import records
from rexnet.processes import in_parallel
from rexnet.study.config import CHUNK
from rexnet.study.networks import find_block, generator_for, outputs
from rexnet.study.protocol import Protocol
from rexnet.study.rank_table import Task, list_tasks, measure


@dataclass(frozen=True, kw_only=True)
class Options:
    """The amount to measure."""

    rounds: int = 5
    ratios: tuple[float, ...] = (0.1, 0.4, 0.7, 1.0)
    """A round is 50 networks of every block at these ratios."""
    processes: int = 2
    record: bool = True
    """Append the row to results/."""


def loop(protocol: Protocol, task: Task) -> dict[str, float]:
    """Return the sum of rank / out channels by activation, one network, one activation, one matrix_rank at a time."""
    block, ratios = find_block(task.block), {name: [] for name in protocol.activations}
    for network in range(task.first, task.first + CHUNK):
        generator = generator_for(protocol.seed, task.block, ratio=task.ratio, network=network)
        size = protocol.draw_size(block, ratio=task.ratio, generator=generator)
        tensors = protocol.draw_tensors(block, size, generator)
        for name in protocol.activations:
            matrix = outputs(protocol, block, batch=[tensors], activations=[name])[0, 0]
            # In float64, as the study counts.
            rank = int(torch.linalg.matrix_rank(matrix.double(), rtol=protocol.tolerance))
            ratios[name].append(rank / size.out_channels)
    return {name: math.fsum(values) for name, values in ratios.items()}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    protocol = Protocol(ratios=options.ratios)
    tasks = list_tasks(protocol, CHUNK)
    measure(protocol, tasks[0])
    study_seconds, loop_seconds, different = [], [], 0
    for number in range(options.rounds + 1):
        torch.set_num_threads(options.processes)
        start = time.perf_counter()
        plain = [loop(protocol, task) for task in tasks]
        middle = time.perf_counter()
        rows = list(in_parallel(partial(measure, protocol), tasks, workers=options.processes, label="ranks"))
        end = time.perf_counter()
        different += sum(float(row[5]) != sums[row[1]] for part, sums in zip(rows, plain, strict=True) for row in part)
        # The first round warms up and is not counted.
        if number:
            loop_seconds.append(middle - start)
            study_seconds.append(end - middle)
    ratios = [a / b for a, b in zip(loop_seconds, study_seconds, strict=True)]
    ranks = len(tasks) * CHUNK * len(protocol.activations)
    row = {
        "ranks_a_round": ranks,
        "rounds": options.rounds,
        "processes": options.processes,
        "study_seconds": quartiles(study_seconds),
        "loop_seconds": quartiles(loop_seconds),
        "times_faster": quartiles(ratios),
        "rows_that_differ": different,
        "protocol": protocol.as_dict(),
    }
    print(json.dumps(row))
    if options.record:
        records.append("rank_study_cpu", {**row, **records.provenance("cpu")})


def quartiles(values: list[float]) -> list[float]:
    return [round(value, 3) for value in statistics.quantiles(values, n=4)]


if __name__ == "__main__":
    main()
