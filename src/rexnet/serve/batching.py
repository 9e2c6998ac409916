"""Batching of images from several requests."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """A result with its times."""

    result: Result
    wait_ms: float
    compute_ms: float
    """Compute time of the whole batch."""


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Batched[Result]]
    since: float


class Batcher(Generic[Item, Result]):
    """Batcher of waiting items. It calls `compute` in threads; each idle thread gets an equal part of the items, at
    most `max_batch`, rounded down to a power of two. It needs no task of its own, and may be dropped while it has
    items: they are still answered. All its methods must be called from one event loop.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item], bool], Sequence[Result]],
        *,
        lanes: int,
        max_batch: int,
        wait_ms: float = 0.0,
        on_batch: Callable[[Sequence[Batched[Any]]], None] = lambda results: None,
    ):
        """`compute(items, alone)` returns a result for each item; `alone` is True if no other call is running. `lanes`
        is the number of concurrent calls. With `wait_ms`, a batch that is not full waits that long, unless nothing is
        running. `on_batch` is called with the results of each batch."""
        self._compute = compute
        self._lanes = lanes
        self._max_batch = max_batch
        self._wait_s = wait_ms / 1e3
        self._on_batch = on_batch
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="network")
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._running = 0
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None

    async def __call__(self, item: Item) -> Batched[Result]:
        """Return the result; raise the error that `compute` raises for this item alone."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Batched[Result]] = loop.create_future()
        self._waiting.append(_Waiting(item, future, perf_counter()))
        # Defer the call, so that items of the same iteration of the event loop form a batch.
        if self._soon is None:
            self._soon = loop.call_soon(self._dispatch)
        return await future

    def _dispatch(self) -> None:
        if self._later is not None:
            self._later.cancel()
        self._soon = self._later = None
        if any(one.future.done() for one in self._waiting):  # skip items whose requests have timed out
            self._waiting = deque(one for one in self._waiting if not one.future.done())
        while self._waiting and self._running < self._lanes:
            left_s = self._waiting[0].since + self._wait_s - perf_counter()
            if self._running and len(self._waiting) < self._max_batch and left_s > 0:
                self._later = asyncio.get_running_loop().call_later(left_s, self._dispatch)
                return
            count = min(-(-len(self._waiting) // (self._lanes - self._running)), self._max_batch)
            self._start([self._waiting.popleft() for _ in range(1 << (count.bit_length() - 1))])

    def _start(self, batch: list[_Waiting[Item, Result]]) -> None:
        alone = self._running == 0 and not self._waiting
        self._running += 1
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._pool, self._run, batch, alone)
        work.add_done_callback(partial(self._finished, batch))

    def _run(self, batch: list[_Waiting[Item, Result]], alone: bool) -> list[Batched[Result] | Exception]:
        started = perf_counter()
        items = [one.item for one in batch]
        results: list[Result | Exception] = []
        try:
            results.extend(self._compute(items, alone))
            assert len(results) == len(items)
        except Exception as error:  # catch all: engines raise errors of any type
            # Compute items alone, so that one cannot fail the others.
            results = [error] if len(batch) == 1 else [self._by_itself(item) for item in items]
        compute_ms = (perf_counter() - started) * 1e3
        return [
            result
            if isinstance(result, Exception)
            else Batched(result, wait_ms=(started - one.since) * 1e3, compute_ms=compute_ms)
            for one, result in zip(batch, results, strict=True)
        ]

    def _by_itself(self, item: Item) -> Result | Exception:
        try:
            (result,) = self._compute([item], False)
            return result
        except Exception as error:
            return error

    def _finished(
        self, batch: list[_Waiting[Item, Result]], work: asyncio.Future[list[Batched[Result] | Exception]]
    ) -> None:
        self._running -= 1
        results = work.result()
        if done := [result for result in results if not isinstance(result, Exception)]:
            self._on_batch(done)
        for one, result in zip(batch, results, strict=True):
            if one.future.done():
                continue
            if isinstance(result, Exception):
                one.future.set_exception(result)
            else:
                one.future.set_result(result)
        self._dispatch()
