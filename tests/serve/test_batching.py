import asyncio
import threading
import time

import pytest

from rexnet.serve.batching import Batcher


class Recorder:
    """Doubles numbers, and remembers how it was called."""

    def __init__(self, seconds=0.002):
        self.seconds = seconds
        self.started = threading.Event()
        self.sizes: list[int] = []
        self.alone: list[bool] = []
        self.running = self.most_running = 0
        self._lock = threading.Lock()

    def __call__(self, items, alone):
        with self._lock:
            self.sizes.append(len(items))
            self.alone.append(alone)
            self.running += 1
            self.most_running = max(self.running, self.most_running)
        self.started.set()
        time.sleep(self.seconds)
        with self._lock:
            self.running -= 1
        if any(item is None for item in items):
            raise ValueError("one of them is none")
        return [2 * item for item in items]


def test_every_item_gets_its_own_answer_in_batches_of_powers_of_two():
    compute = Recorder()

    async def ask():
        batcher = Batcher(compute, lanes=2, max_batch=8)

        async def one(number):
            await asyncio.sleep(number % 17 / 1e4)
            return (await batcher(number)).result

        return await asyncio.gather(*map(one, range(500)))

    assert asyncio.run(ask()) == [2 * number for number in range(500)]
    assert sum(compute.sizes) == 500 and set(compute.sizes) <= {1, 2, 4, 8} and max(compute.sizes) == 8
    assert compute.most_running == 2


def test_items_that_arrive_together_are_divided_among_the_lanes():
    compute = Recorder(seconds=0.02)

    async def ask():
        batcher = Batcher(compute, lanes=2, max_batch=8)
        await asyncio.gather(*map(batcher, range(8)))

    asyncio.run(ask())
    assert compute.sizes == [4, 4] and compute.alone == [False, False]


def test_an_idle_network_is_not_waited_for():
    async def ask():
        batcher = Batcher(Recorder(), lanes=1, max_batch=8, wait_ms=600_000)
        return await asyncio.wait_for(batcher(1), timeout=60)

    batched = asyncio.run(ask())
    assert batched.result == 2 and batched.compute_ms >= 2 and batched.wait_ms >= 0


def test_a_busy_network_is_given_full_batches_within_the_wait():
    compute = Recorder(seconds=0.05)

    async def ask(wait_ms):
        compute.sizes.clear()
        compute.started.clear()
        batcher = Batcher(compute, lanes=2, max_batch=4, wait_ms=wait_ms)
        tasks = [asyncio.create_task(batcher(0))]
        await asyncio.to_thread(compute.started.wait, 60)
        for number in range(1, 5):
            tasks.append(asyncio.create_task(batcher(number)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(ask(10_000))
    assert compute.sizes == [1, 4]
    asyncio.run(ask(0))
    assert compute.sizes[:2] == [1, 1]


def test_an_item_that_fails_does_not_spoil_others():
    async def ask():
        batcher = Batcher(Recorder(), lanes=1, max_batch=4)
        return await asyncio.gather(*map(batcher, (1, None, 3, 4)), return_exceptions=True)

    one, none, three, four = asyncio.run(ask())
    assert (one.result, three.result, four.result) == (2, 6, 8)
    assert isinstance(none, ValueError)


def test_cancelled_items_are_not_computed():
    compute = Recorder(seconds=0.03)

    async def ask():
        batcher = Batcher(compute, lanes=1, max_batch=1)
        tasks = [asyncio.create_task(batcher(number)) for number in range(4)]
        await asyncio.to_thread(compute.started.wait, 60)
        tasks[1].cancel()
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third, last = asyncio.run(ask())
    assert first.result == 0 and last.result == 6
    assert isinstance(second, asyncio.CancelledError) and isinstance(third, asyncio.CancelledError)
    assert compute.sizes == [1, 1]


def test_an_unreferenced_batcher_still_answers():
    async def ask():
        batcher = Batcher(Recorder(), lanes=1, max_batch=2)
        tasks = [asyncio.create_task(batcher(number)) for number in range(9)]
        await asyncio.sleep(0)
        del batcher
        return [batched.result for batched in await asyncio.gather(*tasks)]

    assert asyncio.run(ask()) == [2 * number for number in range(9)]


def test_batch_sizes_are_reported():
    sizes = []

    async def ask():
        await asyncio.gather(
            *map(
                Batcher(Recorder(), lanes=1, max_batch=4, on_batch=lambda results: sizes.append(len(results))), range(7)
            )
        )

    asyncio.run(ask())
    assert sizes == [4, 2, 1]


@pytest.mark.parametrize("answers", [0, 3])
def test_a_function_that_returns_too_few_answers_is_an_error_for_all(answers):
    async def ask():
        batcher = Batcher(lambda items, alone: [1] * answers, lanes=1, max_batch=2)
        return await asyncio.gather(batcher(1), batcher(2), return_exceptions=True)

    assert all(isinstance(found, Exception) for found in asyncio.run(ask()))
