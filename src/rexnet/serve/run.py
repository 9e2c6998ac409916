"""The server: processes, their socket and its HTTP connections."""

import asyncio
import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, NoReturn

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from rexnet.errors import OptionError
from rexnet.processes import starting_workers
from rexnet.serve.app import create_app
from rexnet.serve.config import ServeConfig
from rexnet.serve.http_errors import busy
from rexnet.serve.metrics import Metrics
from rexnet.serve.model_registry import open_registry
from rexnet.text import reason_of

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 30
_BACKLOG = 1024
_WORKER_START_S = 60
"""Seconds within which a worker must answer. It imports PyTorch first, and the default of 5 s would restart it
forever."""
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_MAX_CONNECTIONS = 1024
_GRACE_S = 0.5
"""Seconds for which a stopping server waits for a request on an open connection."""
_OVERHEAD_BYTES = 2**19
"""Maximum size of a request's headers and chunk framing, beyond eight times its body."""


class Settings(uvicorn.Config):
    """Settings of uvicorn, and the seconds within which a client must send its headers or read its answer."""

    client_timeout_s: float = 20.0


async def turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in place of the application if there are too many connections."""
    full = busy(f"the server has {_MAX_CONNECTIONS} connections, its limit; retry in a moment", status=503)
    full.headers["Connection"] = "close"
    await full.response()(scope, receive, send)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that also closes connections whose client is too slow or sends endless headers."""

    _stopping = False
    _silent: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _received = 0
    _body = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._silent = self._later(self.transport.abort)

    def data_received(self, data: bytes) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._silent is None:
            self._silent = self._later(self.transport.abort)
        super().data_received(data)
        self._received += len(data)
        if self._received > _OVERHEAD_BYTES + 9 * self._body:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._received = self._body = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._cancel_timers()
        self.app = turn_away if len(self.connections) > _MAX_CONNECTIONS else self.config.loaded_app
        super().on_headers_complete()
        if self._stopping:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Answer the request in progress or arriving, then close the connection."""
        self._stopping = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self._cancel_timers()
            self._silent = self.loop.call_later(_GRACE_S, self.transport.close)

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
    def _timeout_s(self) -> float:
        assert isinstance(self.config, Settings)
        return self.config.client_timeout_s

    def _later(self, function: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(self._timeout_s, function)

    def _cancel_timers(self) -> None:
        if self._silent is not None:
            self._silent.cancel()
            self._silent = None


class Workers(Multiprocess):
    """Worker processes of uvicorn. While they stop, they accept no connection that would go unanswered."""

    def init_processes(self) -> None:
        # Its start unblocks SIGINT, so it comes before the first worker's.
        resource_tracker.ensure_running()
        with self._supervising():
            super().init_processes()

    def keep_subprocess_alive(self) -> None:
        with self._supervising():
            super().keep_subprocess_alive()

    @contextmanager
    def _supervising(self) -> Iterator[None]:
        """Close this process's copies of the workers' ends of the pipes afterwards: they would hide the death of a
        worker that is still importing PyTorch for `_WORKER_START_S`."""
        with starting_workers():
            yield
        for process in self.processes:
            process.child_conn.close()

    def terminate_all(self) -> None:
        for listening in self.sockets:
            listening.close()
        super().terminate_all()


def serve(config: ServeConfig, *, api_key: str | None = None) -> None:
    """Serve until SIGINT or SIGTERM, and answer the requests accepted by then. Raise ValueError or OSError for a model
    that cannot be opened, and for an address that cannot be used."""
    with ExitStack() as stack:
        listening = stack.enter_context(_listening(config))
        host, port = listening.getsockname()[:2]
        if config.workers == 1:
            settings = server_settings(config, _application(config, api_key))
            listening.listen(_BACKLOG)  # listen before the address is logged, since readers of the log may connect
            logger.info("http://%s:%d", f"[{host}]" if ":" in host else host, port)
            try:
                uvicorn.Server(settings).run(sockets=[listening])
            except KeyboardInterrupt:  # raised again by uvicorn when everything is closed
                _end(130)
            return
        # Open once before the workers: errors show here, and the engine is measured on an idle machine.
        open_registry(config, Metrics())
        os.environ[_METRICS_FOLDER] = stack.enter_context(tempfile.TemporaryDirectory(prefix="rexnet-metrics-"))
        stack.callback(os.environ.pop, _METRICS_FOLDER)
        listening.listen(_BACKLOG)
        logger.info("http://%s:%d, %d workers", host, port, config.workers)
        factory = partial(_worker, config, api_key)
        Workers(server_settings(config, factory, factory=True, workers=config.workers), sockets=[listening]).run()
    _end(0)


def _end(code: int) -> NoReturn:
    """End the process of a server that has closed everything; Python's own exit takes seconds with PyTorch."""
    sys.stderr.flush()
    os._exit(code)


def _worker(config: ServeConfig, api_key: str | None) -> Any:
    """Create the application in a process of its own, which starts without the parent's logging."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rexnet").setLevel(logging.INFO)
    try:
        return _application(config, api_key, one_of_several=True)
    except (ValueError, OSError) as error:  # a model that was deleted or damaged before a worker was restarted
        logger.error("a worker cannot start: %s", error)
        sys.exit(1)


def _application(config: ServeConfig, api_key: str | None, *, one_of_several: bool = False) -> Any:
    # Stays open until the process ends.
    log = sys.stderr if config.log is None else open(config.log, "a", encoding="utf-8")  # noqa: SIM115
    return create_app(config, api_key=api_key, metrics=Metrics(one_of_several=one_of_several), log=log)


def server_settings(config: ServeConfig, app: Any, **more: Any) -> Settings:
    """Return uvicorn's settings; `more` are additional ones."""
    settings = Settings(
        app,
        http=LimitedProtocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_worker_healthcheck=_WORKER_START_S,
        timeout_graceful_shutdown=int(config.body_timeout_s + config.timeout_s) + 1,
        **more,
    )
    settings.client_timeout_s = config.body_timeout_s
    return settings


@contextmanager
def _listening(config: ServeConfig) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OptionError(f"--host {config.host!r} is not an address of this machine ({reason_of(error)})") from error
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
        except OSError as error:
            where = f"{config.host}:{config.port}"
            raise OSError(f"the server cannot listen on {where} ({reason_of(error)}); choose another --port") from error
        listening.set_inheritable(True)
        yield listening
