"""Request limits, checked before a route is called: API key, size before and after decompression, and time."""

import asyncio
import hmac
import zlib
from time import monotonic
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rexnet.serve.config import ServeConfig
from rexnet.serve.http_errors import HTTPError, busy, quoted

_BODIES = 8
"""Maximum number of full-size bodies in memory; further requests get status 429."""
_DISCARD_S = 2.0
"""Seconds for which the rest of a rejected body is read and discarded: clients read the answer only after sending
everything."""
_ZLIB_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
OPEN_PATHS = ("/", "/v2/health/live", "/v2/health/ready")
"""Paths that need no API key: the page, which asks for it, and the health checks of a load balancer."""
OPEN_FOLDERS = ("/page/",)


class RequestLimits:
    """ASGI middleware that reads the whole body of a request, so that no route waits for a client."""

    def __init__(self, app: ASGIApp, *, config: ServeConfig, api_key: str | None):
        self._app = app
        self._config = config
        self._api_key = None if api_key is None else api_key.encode()
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def observed(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        body: list[bytes] = []
        try:
            self._check_key(scope)
            await self._read(scope, receive, body)
            body[:] = [b"".join(body)]
            async with asyncio.timeout(self._config.timeout_s):
                await self._app(scope, _replayed(body[0], receive), observed)
        except _GoneError:
            return
        except HTTPError as error:
            await error.response()(scope, receive, send)
        except TimeoutError:
            if not started:
                late = busy(
                    f"the request was not answered within {self._config.timeout_s:g} s; retry later", status=503
                )
                await late.response()(scope, receive, send)
        finally:
            self._held -= sum(map(len, body))

    def _check_key(self, scope: Scope) -> None:
        path = scope["path"]
        if self._api_key is None or path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return
        headers = dict(scope["headers"])
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        if not hmac.compare_digest(given, self._api_key):
            message = "the API key is missing or wrong; send a header Authorization: Bearer KEY or X-API-Key: KEY"
            raise HTTPError(401, message, {"WWW-Authenticate": "Bearer"})

    async def _read(self, scope: Scope, receive: Receive, body: list[bytes]) -> None:
        """Read the whole body into `body`, decompressed, and add its bytes to those in memory."""
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                decompressor = _decompressor(scope)
                more = True
                received = size = 0
                while more:
                    chunk, more = await _next_chunk(receive)
                    received += len(chunk)
                    scope["rexnet.bytes"] = received
                    if decompressor is not None and 0 < received <= self._config.max_body_bytes:
                        most = self._config.max_body_bytes - size
                        chunk = await asyncio.to_thread(_decompress, decompressor, chunk, most=most, last=not more)
                    size += len(chunk)
                    if max(size, received) > self._config.max_body_bytes:
                        await _discard(receive, more)
                        raise _too_large(self._config)
                    if self._held + len(chunk) > _BODIES * self._config.max_body_bytes:
                        await _discard(receive, more)
                        raise busy("too many large requests are in progress; retry in a moment")
                    self._held += len(chunk)
                    body.append(chunk)
        except TimeoutError:
            limit = f"{self._config.body_timeout_s:g} s"
            raise HTTPError(408, f"the request did not arrive within {limit}", {"Connection": "close"}) from None


def _decompressor(scope: Scope) -> Any:
    """Return zlib's decompressor for the request; None if it is not compressed."""
    encodings = [value.strip().lower() for name, value in scope["headers"] if name == b"content-encoding"]
    encoding = b", ".join(encodings)
    if encoding in (b"", b"identity"):
        return None
    if encoding not in _ZLIB_BITS:
        text = quoted(encoding.decode("latin-1"))
        raise HTTPError(415, f"the Content-Encoding is {text}; allowed: gzip, deflate, identity")
    return zlib.decompressobj(_ZLIB_BITS[encoding])


def _decompress(decompressor: Any, chunk: bytes, *, most: int, last: bool) -> bytes:
    """Return the content of a chunk, truncated one byte beyond `most`. Raise HTTPError with 400 for damaged data."""
    try:
        content = decompressor.decompress(chunk, most + 1)
    except zlib.error as error:
        raise HTTPError(400, "the request cannot be decompressed: it is damaged") from error
    if decompressor.unused_data or (last and len(content) <= most and not decompressor.eof):
        raise HTTPError(400, "the request cannot be decompressed: it is truncated or has trailing data")
    return content


async def _next_chunk(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _GoneError
    return message.get("body", b""), message.get("more_body", False)


async def _discard(receive: Receive, more: bool) -> None:
    until = monotonic() + _DISCARD_S
    try:
        async with asyncio.timeout(_DISCARD_S):
            while more and monotonic() < until:
                _, more = await _next_chunk(receive)
    except TimeoutError:
        return


def _too_large(config: ServeConfig) -> HTTPError:
    return HTTPError(
        413,
        f"the request is larger than {config.max_body_mib:g} MiB, the limit of this server",
        {"Connection": "close"},
    )


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class _GoneError(Exception):
    """Connection closed by the client before its request was complete."""
