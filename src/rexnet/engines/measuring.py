"""Measurements of latency and peak memory, in this process or in separate ones, and facts about the machine."""

import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch

from rexnet.engines.native import library
from rexnet.engines.own_process import OwnProcess
from rexnet.processes import log_progress
from rexnet.text import plural, reason_of, time_left_text
from rexnet.training.distributed import World
from rexnet.training.run_folder import describe_environment

logger = logging.getLogger(__name__)

Key = TypeVar("Key")
CALLS_PER_TURN = 3
"""Timed calls in a turn of `measure_apart`, after one that is not counted."""
_REST_S = 0.05
_WORTH_LOGGING_S = 5.0
_ENGINE_PACKAGES = ("onnx", "onnxruntime", "openvino")


def interleaved_ms(
    calls: Mapping[Key, Callable[[], object]], *, rounds: int, warm_up: int = 2, calls_per_turn: int = 1
) -> dict[Key, list[float]]:
    """Return the milliseconds of each call in each round. Calls take turns within a round, so that other load on the
    machine affects all of them equally; the first `warm_up` rounds are not counted. A turn of several calls begins with
    one that is not counted, because it finds the caches and threads of the previous turn.
    """
    found: dict[Key, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            if calls_per_turn > 1:
                call()
            times_ms = _times_ms(call, calls_per_turn)
            if number >= warm_up:
                found[name] += times_ms
    return found


def _times_ms(call: Callable[[], object], calls: int) -> list[float]:
    times_ms = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return times_ms


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurement of a call in a process of its own."""

    times_ms: list[float]
    peak_mib: float | None
    """Peak memory of the process, including libraries; None if the system does not report it."""
    result: Any
    """Result of the call."""


def measure_apart(
    prepare: Mapping[Key, Callable[[], Callable[[], object]]], *, rounds: int, skip_failed: bool = False
) -> dict[Key, Measured]:
    """Measure as `interleaved_ms`, three calls per turn, each in its own process, because engines in one process
    interfere with each other. Long measurements log their expected duration after the first turn, and their progress.

    Each turn begins after a short rest, in which the threads of the engine before stop polling for work.

    Each of `prepare` runs in its own process and returns the call; it and the call's result must be picklable. Raise
    the error of a call that fails, and OSError if its process ends; with `skip_failed`, log the error and skip that
    call.
    """
    found: dict[Key, Measured] = {}
    with ExitStack() as stack:
        # Start all of them before the first one prepares its call, since their imports take seconds.
        processes = {name: stack.enter_context(OwnProcess()) for name in prepare}
        # Prepare, run one turn that is not counted, then the turns of the rounds.
        # Opening the engines takes another time than a round, so that it does not count in the progress.
        for step in chain((-2, -1), log_progress(range(rounds), rounds, label="measuring")):
            for name, process in list(processes.items()):
                try:
                    if step == -2:
                        process.prepare(_prepare_turn, prepare[name])
                        continue
                    time.sleep(_REST_S)
                    turn: Measured = process()
                except Exception as error:  # engines raise errors of any class
                    if not skip_failed:
                        raise
                    logger.info("%s is skipped: %s", name, " ".join(reason_of(error).split())[:200])
                    del processes[name]
                    found.pop(name, None)
                    continue
                earlier_ms = found[name].times_ms if step > 0 else []
                found[name] = replace(turn, times_ms=earlier_ms + turn.times_ms)
            if step == -1 and (seconds := seconds_of_rounds(found.values(), rounds)) >= _WORTH_LOGGING_S:
                logger.info("measuring, %d %s: %s", rounds, plural(rounds, "round"), time_left_text(seconds))
    return found


def seconds_of_rounds(turns: Iterable[Measured], rounds: int) -> float:
    """Estimate the time of `rounds` from one turn of each call, whose first call is not in `times_ms`."""
    return rounds * sum(statistics.fmean(turn.times_ms) * (CALLS_PER_TURN + 1) for turn in turns) / 1e3


def _prepare_turn(prepare: Callable[[], Callable[[], object]]) -> Callable[[], Measured]:
    call = prepare()
    return lambda: Measured(result=call(), times_ms=_times_ms(call, CALLS_PER_TURN), peak_mib=_peak_mib())


def _peak_mib() -> float | None:
    """Return the peak memory of this process, which must be a new one, since freed memory counts too."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        # ru_maxrss would start at the parent's memory.
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return None


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
    """Return the versions of the engines; None for one that is not installed."""
    return {**{name: _version(name) for name in _ENGINE_PACKAGES}, "native": library.version()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_machine() -> dict[str, Any]:
    """Return date, commit, processor and versions, to compare measurements of two machines."""
    environment = describe_environment(World(device=torch.device("cpu")))
    return {**environment, "processor": processor_name(), **engine_versions()}
