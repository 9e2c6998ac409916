"""A line in the access log and a count in the metrics for every request."""

import json
import logging
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rexnet.serve.metrics import Metrics

logger = logging.getLogger(__name__)


class Observation:
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log: TextIO | None):
        self._app = app
        self._metrics = metrics
        self._log = log

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
            else:
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
            logger.warning("the access log cannot be written: %s", error)
