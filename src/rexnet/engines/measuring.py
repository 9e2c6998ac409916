"""Measurements of latency and peak memory, and facts of the machine."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from rexnet.training.distributed import World
from rexnet.training.run_folder import describe_environment

Key = TypeVar("Key")
_ENGINE_PACKAGES = ("onnx", "onnxruntime", "openvino")


def interleaved_ms(
    calls: Mapping[Key, Callable[[], object]], *, rounds: int, warm_up: int = 2, calls_per_turn: int = 1
) -> dict[Key, list[float]]:
    """Return the milliseconds of each call in each round. Calls take turns within a round, so that other load on the
    machine affects all alike; `warm_up` rounds before are not counted.

    A turn of several calls begins with one that is not counted: it meets the caches and waiting threads of the turn
    before.
    """
    found: dict[Key, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            if calls_per_turn > 1:
                call()
            for _ in range(calls_per_turn):
                start = time.perf_counter()
                call()
                if number >= warm_up:
                    found[name].append((time.perf_counter() - start) * 1e3)
    return found


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Summary of many measurements of one call."""

    median_ms: float
    quartiles_ms: tuple[float, float]
    p95_ms: float
    """95th percentile of the time of a call."""


def spread_of(times_ms: Sequence[float]) -> Spread:
    """Summarise at least two measurements."""
    low, middle, high = statistics.quantiles(times_ms, n=4, method="inclusive")
    p95 = statistics.quantiles(times_ms, n=20, method="inclusive")[-1]
    return Spread(median_ms=middle, quartiles_ms=(low, high), p95_ms=p95)


def processor_name() -> str:
    """Return the processor's name as the system reports it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def engine_versions() -> dict[str, str | None]:
    """Return the versions of the engines; None for a package that is not installed."""
    return {name: _version(name) for name in _ENGINE_PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_machine() -> dict[str, Any]:
    """Return date, commit, processor and versions, to compare measurements of two machines."""
    environment = describe_environment(World(device=torch.device("cpu")))
    return {**environment, "processor": processor_name(), **engine_versions()}


def peak_mib_of_process(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float | None:
    """Return the peak memory of a new process that prepares a call with these arguments and makes it twice; None where
    the system does not report it.

    The process is new, since freed memory still counts in a peak and engines keep memory that others then use.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_mib_after, prepare, arguments).result()


def _peak_mib_after(prepare: Callable[..., Callable[[], object]], arguments: tuple[object, ...]) -> float | None:
    call = prepare(*arguments)
    for _ in range(2):
        call()
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        # ru_maxrss would start at the parent's memory.
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return None
