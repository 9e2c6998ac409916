"""Metrics for Prometheus, and a line in the access log for every request."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Of one process, or as one of several that share the folder that the client library uses."""

    def __init__(self, *, one_of_several: bool = False):
        self._one_of_several = one_of_several
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("rexnet_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "rexnet_request_seconds",
            "From the end of a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "rexnet_batch_pictures",
            "Images computed in one call.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.pending = Gauge(
            "rexnet_pending_pictures",
            "Images accepted and not yet answered.",
            ["model"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.reloads = Counter(
            "rexnet_reloads",
            "Model files replaced, taken up or not, or missing.",
            ["model", "outcome"],
            registry=registry,
        )
        if not one_of_several:
            ProcessCollector(registry=registry)

    def on_batch(self, model: str) -> Callable[[int], None]:
        """Return the observer of the size of each batch of that model."""
        return self.batches.labels(model).observe

    def on_pending(self, model: str) -> Callable[[int], None]:
        """Return the observer of how many images that model has in work."""
        return self.pending.labels(model).set

    def text(self) -> bytes:
        """All of it, of all processes, as Prometheus reads it."""
        if not self._one_of_several:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)


class Observation:
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log: TextIO | None):
        self._app = app
        self._metrics = metrics
        self._log = log
        self._log_fails = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        status, sent = 0, 0

        async def observed(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            elif scope["method"] != "HEAD":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception:
            status = status or 500
            raise
        finally:
            seconds = perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, status or "gone").inc()
            self._metrics.seconds.labels(route).observe(seconds)
            self._write(scope, status=status, milliseconds=round(seconds * 1e3, 2), bytes_sent=sent)

    def _write(self, scope: Scope, **facts: Any) -> None:
        if self._log is None:
            return
        client = scope.get("client")
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"][:200],
            "bytes_received": scope.get("rexnet.bytes"),
            **facts,
        }
        try:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
        except OSError as error:  # a full disk must not stop the answers
            if not self._log_fails:
                logger.warning("the access log cannot be written: %s", error)
            self._log_fails = True
            return
        if self._log_fails:
            logger.warning("the access log is written again")
        self._log_fails = False
