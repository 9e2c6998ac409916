import logging
import os
from functools import partial

import pytest

from rexnet.engines.measuring import Measured, interleaved_ms, measure_apart, seconds_of_rounds, spread_of


def test_calls_take_turns_and_the_first_of_a_turn_is_not_counted():
    order = []
    times = interleaved_ms(
        {name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, warm_up=1, calls_per_turn=2
    )
    assert order == list("aaabbb" * 4)
    assert {name: len(each) for name, each in times.items()} == {"a": 6, "b": 6}
    spread = spread_of([float(value) for value in range(101)])
    assert (spread.quartiles_ms, spread.median_ms, spread.p95_ms) == ((25.0, 75.0), 50.0, 95.0)


def fill_memory(mib):
    return len(bytearray(mib * 2**20))


@pytest.mark.seconds
def test_each_call_is_measured_in_a_process_of_its_own():
    sizes = {size: partial(partial, fill_memory, size) for size in (1, 201)}
    pids = {name: partial(partial, os.getpid) for name in "ab"}
    found = measure_apart({**sizes, **pids}, rounds=2)
    assert all(len(each.times_ms) == 6 and min(each.times_ms) > 0 for each in found.values())
    assert len({found["a"].result, found["b"].result, os.getpid()}) == 3
    peaks = [found[size].peak_mib for size in sizes]
    assert None in peaks or 150 < peaks[1] - peaks[0] < 250


@pytest.mark.seconds
def test_the_first_turn_shows_how_long_the_rounds_will_take(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "rexnet")
    monkeypatch.setattr("rexnet.engines.measuring.seconds_of_rounds", lambda turns, rounds: 10.0 * len(turns) * rounds)
    measure_apart({name: partial(partial, os.getpid) for name in "ab"}, rounds=2)
    assert [record.getMessage() for record in caplog.records] == ["measuring, 2 rounds: 40 s left"]


def test_the_call_of_a_turn_that_is_not_counted_takes_time_too():
    turns = [Measured(times_ms=[10.0, 20.0, 30.0], peak_mib=None, result=None)] * 2
    assert seconds_of_rounds(turns, rounds=5) == pytest.approx(5 * 2 * 4 * 0.02)


@pytest.mark.seconds
def test_a_call_that_fails_or_ends_its_process_is_skipped_with_the_reason(caplog):
    caplog.set_level(logging.INFO, "rexnet")
    prepare = {"dies": partial(partial, os._exit, 7), "fails": partial(int, "x"), "works": partial(partial, int, "3")}
    found = measure_apart(prepare, rounds=1, skip_failed=True)
    assert {name: each.result for name, each in found.items()} == {"works": 3}
    assert "dies is skipped: its process ended with exit code 7" in caplog.text
    assert "fails is skipped: invalid literal" in caplog.text
    with pytest.raises(OSError, match="exit code 7"):
        measure_apart({"dies": prepare["dies"]}, rounds=1)
