import os
import signal
from functools import partial

import pytest

from rexnet.errors import LostProcessError
from rexnet.processes import explaining_dead_workers, in_parallel, usable_cpus


def square(number):
    return number * number


def die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(error, number):
    raise error(number)


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_every_item_in_order(workers):
    assert list(in_parallel(square, range(50), workers=min(workers, usable_cpus()), label="x")) == [
        n * n for n in range(50)
    ]


def test_no_items():
    assert list(in_parallel(square, [], workers=2, label="x")) == []


def test_a_killed_worker_is_reported_in_one_sentence():
    with pytest.raises(
        OSError, match=r"a worker process \(pid \d+\) ended .* /dev/shm of [\d,]+ MiB; .*fewer --workers"
    ):
        list(in_parallel(die, range(10), workers=1, label="x"))


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "Connection reset by peer")])
def test_a_worker_killed_while_it_hands_over_a_result(error):
    with pytest.raises(LostProcessError, match="a worker process ended unexpectedly"), explaining_dead_workers():
        raise error


@pytest.mark.parametrize("error", [KeyError, EOFError, ConnectionError, RuntimeError])
def test_other_errors_keep_their_kind(error):
    with pytest.raises(error) as raised:
        list(in_parallel(partial(fail, error), range(3), workers=1, label="x"))
    assert not isinstance(raised.value, LostProcessError)


def test_long_work_logs_its_progress(monkeypatch, caplog):
    monkeypatch.setattr("rexnet.processes._SAY_EVERY_S", 0.0)
    with caplog.at_level("INFO"):
        list(in_parallel(square, range(4), workers=0, label="train"))
    assert "train: 50 % done, 0 s left" in caplog.messages
