"""How long calls take, side by side."""

import time
from collections.abc import Callable, Mapping


def interleaved_ms(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Milliseconds of each call in each round. All take turns within a round, so that what else the machine does meets
    all of them alike; `warm_up` rounds before are not counted."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= warm_up:
                found[name].append((time.perf_counter() - start) * 1e3)
    return found
