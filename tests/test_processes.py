import os
import signal

import pytest

from rexnet.processes import in_parallel, usable_cpus


def square(number):
    return number * number


def die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number):
    raise KeyError(number)


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_every_item_in_order(workers):
    assert list(in_parallel(square, range(50), workers=min(workers, usable_cpus()), label="x")) == [
        n * n for n in range(50)
    ]


def test_no_items():
    assert list(in_parallel(square, [], workers=2, label="x")) == []


def test_a_killed_worker_is_one_sentence():
    with pytest.raises(
        OSError, match=r"a worker process \(pid \d+\) ended .* /dev/shm of [\d,]+ MiB; .*fewer --workers"
    ):
        list(in_parallel(die, range(10), workers=1, label="x"))


def test_other_errors_keep_their_kind():
    with pytest.raises(KeyError):
        list(in_parallel(fail, range(3), workers=1, label="x"))


def test_long_work_says_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr("rexnet.processes._SAY_EVERY_S", 0.0)
    with caplog.at_level("INFO"):
        list(in_parallel(square, range(4), workers=0, label="train"))
    assert "train: 50 % done, about 0 minutes left" in caplog.messages
