"""How long calls take, side by side."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key")


def interleaved_ms(
    calls: Mapping[Key, Callable[[], object]], *, rounds: int, warm_up: int = 2, calls_per_turn: int = 1
) -> dict[Key, list[float]]:
    """Milliseconds of each call in each round. All take turns within a round, so that what else the machine does meets
    all of them alike; `warm_up` rounds before are not counted.

    In a turn of several calls one more comes first and is not counted: it meets the caches and the waiting threads that
    the turn before left behind.
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
    """What many measurements of one call come to."""

    median_ms: float
    quartiles_ms: tuple[float, float]
    p95_ms: float
    """What 19 of 20 calls stay below."""


def spread_of(times_ms: Sequence[float]) -> Spread:
    """Of two measurements or more."""
    low, middle, high = statistics.quantiles(times_ms, n=4, method="inclusive")
    p95 = statistics.quantiles(times_ms, n=20, method="inclusive")[-1]
    return Spread(median_ms=middle, quartiles_ms=(low, high), p95_ms=p95)
