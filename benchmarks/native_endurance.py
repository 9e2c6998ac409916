"""Ten thousand mixed calls of the native engine from eight threads: networks, precisions, image sizes, batches, logits
and feature maps. One call in ten opens a network of its own and closes it. Each result must have the bits of the first
call, and memory and threads must not grow.

A row is appended to results/native_endurance_cpu.jsonl; the exit code is 1 for another result or more memory.

python benchmarks/native_endurance.py
"""

import ctypes
import gc
import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

import records
import rexnet
from rexnet.engines.config import PRECISIONS
from rexnet.engines.native.library import why_missing
from rexnet.engines.native.network import NativeNetwork

MODELS = ("rexnet_050", "rexnet_100", "rexnetr_150", "rexnet_lite_100", "rexnet_plain")
SHAPES = ((1, 3, 224, 224), (1, 3, 45, 83), (2, 3, 128, 96), (3, 3, 32, 32), (7, 3, 64, 64))
PARTS = 10
ALLOWED_MIB = 50
"""Of growth over the last nine tenths of the calls; a network that stayed open would hold 4 MiB or more."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Call the native engine."""

    calls: int = 10_000
    threads: int = 8
    seed: int = 0


def features(network: NativeNetwork, images: Tensor) -> Tensor:
    return torch.cat([found.flatten(1) for found in network.feature_maps(images, [8, 32]).values()], 1)


def resident_mib() -> float:
    """Return the memory in use, without what malloc keeps of freed memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def count_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def run(options: Options) -> dict[str, Any]:
    torch.set_num_threads(1)
    threads_before = count_threads()
    models = [rexnet.create_model(name, num_classes=10).eval() for name in MODELS]
    precisions = [precision for precision in PRECISIONS["native"] if why_missing(precision) is None]
    kept = [NativeNetwork(model, precision=precision, threads=2) for model, precision in product(models, precisions)]
    batches = [torch.randn(shape, generator=torch.Generator().manual_seed(options.seed)) for shape in SHAPES]
    ways: tuple[Callable[..., Tensor], ...] = (NativeNetwork.__call__, features)
    expected = {
        case: ways[case[2]](kept[case[0]], batches[case[1]])
        for case in product(range(len(kept)), range(len(batches)), range(len(ways)))
    }

    def call(number: int) -> tuple[bool, bool]:
        """Return whether a network was opened and whether its result differs."""
        draw = random.Random(options.seed + number)
        case = draw.choice(list(expected))
        which, images, way = case[0], batches[case[1]], ways[case[2]]
        opens = draw.random() < 0.1
        if not opens:
            return False, not torch.equal(way(kept[which], images), expected[case])
        model, precision = models[which // len(precisions)], precisions[which % len(precisions)]
        with closing(NativeNetwork(model, precision=precision, threads=draw.randint(1, 4))) as network:
            return True, not torch.equal(way(network, images), expected[case])

    opened = differences = 0
    resident = []
    with ThreadPoolExecutor(options.threads) as pool:
        for part in range(PARTS):
            numbers = range(part * options.calls // PARTS, (part + 1) * options.calls // PARTS)
            for opens, differs in pool.map(call, numbers):
                opened, differences = opened + opens, differences + differs
            resident.append(round(resident_mib()))
            print(f"{numbers.stop:,} calls: {resident[-1]} MiB, {differences} differences", flush=True)
    for network in kept:
        network.close()
    return {
        "calls": options.calls,
        "calling_threads": options.threads,
        "models": MODELS,
        "precisions": precisions,
        "opened": opened,
        "differences": differences,
        "resident_mib": resident,
        "growth_mib": resident[-1] - resident[0],
        "threads_left": count_threads() - threads_before,
    }


def main() -> None:
    records.start()
    row = run(tyro.cli(Options, description=__doc__))
    print(row)
    print(f"appended to {records.append('native_endurance_cpu', {**row, **records.provenance('cpu')})}")
    sys.exit(row["differences"] > 0 or row["growth_mib"] > ALLOWED_MIB or row["threads_left"] > 0)


if __name__ == "__main__":
    main()
