"""HTTP connections that do not wait for slow clients."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from rexnet.serve.http_errors import busy, refused

_OVERHEAD_BYTES = 2**19
"""Of headers, and of what marks chunks of a body, beyond eight times that body."""


_MOST_CONNECTIONS = 1024


class Settings(uvicorn.Config):
    """uvicorn's, and how many seconds a client may take to send its headers, or to take what is sent to it."""

    client_timeout_s: float = 20.0


async def turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    """In place of the application where too many are connected."""
    crowded = busy(f"{_MOST_CONNECTIONS} clients are connected already; ask again in a moment", status=503)
    crowded.headers["Connection"] = "close"
    await refused(crowded)(scope, receive, send)


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, but it closes connections whose client is too slow, or sends headers without end."""

    _cut_off: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _received = 0
    _body = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._cut_off = self._later(self.transport.abort)

    def data_received(self, data: bytes) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._cut_off is None:
            self._cut_off = self._later(self.transport.abort)
        super().data_received(data)
        self._received += len(data)
        if self._received > _OVERHEAD_BYTES + 9 * self._body:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._received = self._body = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._cancel_timers()
        self.app = turn_away if len(self.connections) > _MOST_CONNECTIONS else self.config.loaded_app
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._later(self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)
        if self._unread is not None:
            self._unread.cancel()

    def send_400_response(self, msg: str) -> None:
        body = json.dumps({"error": "the request is not valid HTTP"}).encode()
        headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[400] + headers.encode() + body)
        self.transport.close()

    @property
    def _patience_s(self) -> float:
        assert isinstance(self.config, Settings)
        return self.config.client_timeout_s

    def _later(self, function: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(self._patience_s, function)

    def _cancel_timers(self) -> None:
        if self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None
