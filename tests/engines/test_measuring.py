from functools import partial

import pytest

from rexnet.engines.measuring import interleaved_ms, peak_mib_of_process, spread_of


def test_calls_take_turns_and_the_first_of_a_turn_is_not_counted():
    order = []
    times = interleaved_ms(
        {name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, warm_up=1, calls_per_turn=2
    )
    assert order == list("aaabbb" * 4)
    assert {name: len(each) for name, each in times.items()} == {"a": 6, "b": 6}
    spread = spread_of([float(value) for value in range(101)])
    assert (spread.quartiles_ms, spread.median_ms, spread.p95_ms) == ((25.0, 75.0), 50.0, 95.0)


@pytest.mark.seconds
def test_peak_memory_is_that_of_a_new_process():
    found = [peak_mib_of_process(partial, bytearray, size * 2**20) for size in (1, 201)]
    assert None in found or 150 < found[1] - found[0] < 250
