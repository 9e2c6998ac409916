"""Processes that listen."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from rexnet.errors import OptionError
from rexnet.serve.app import create_app
from rexnet.serve.config import ServeConfig
from rexnet.serve.connection import ImpatientProtocol, Settings
from rexnet.serve.metrics import Metrics
from rexnet.serve.model_registry import open_registry
from rexnet.text import reason_of

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 30
_BACKLOG = 1024
_WORKER_START_S = 60
"""A worker says nothing while it imports PyTorch; after 5 s the supervisor would start it again, for ever."""
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def serve(config: ServeConfig, *, api_key: str | None = None) -> None:
    """Until SIGINT or SIGTERM; what was accepted by then is still answered. ValueError or OSError, one sentence, for a
    model that cannot be opened and an address that cannot be had."""
    with ExitStack() as stack:
        listening = stack.enter_context(_listening(config))
        host, port = listening.getsockname()[:2]
        if config.workers == 1:
            settings = server_settings(config, _application(config, api_key))
            listening.listen(_BACKLOG)  # before the address is said: whoever reads it may connect
            logger.info("http://%s:%d", f"[{host}]" if ":" in host else host, port)
            uvicorn.Server(settings).run(sockets=[listening])
            return
        # Opened once before any worker is: what is wrong shows here, and the engine is measured on a quiet machine.
        open_registry(config, Metrics())
        os.environ[_METRICS_FOLDER] = stack.enter_context(tempfile.TemporaryDirectory(prefix="rexnet-metrics-"))
        stack.callback(os.environ.pop, _METRICS_FOLDER)
        listening.listen(_BACKLOG)
        logger.info("http://%s:%d, %d workers", host, port, config.workers)
        factory = partial(_worker, config, api_key)
        Multiprocess(server_settings(config, factory, factory=True, workers=config.workers), sockets=[listening]).run()


def _worker(config: ServeConfig, api_key: str | None) -> Any:
    """The application in a process of its own, which begins without the parent's logging."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rexnet").setLevel(logging.INFO)
    return _application(config, api_key, one_of_several=True)


def _application(config: ServeConfig, api_key: str | None, *, one_of_several: bool = False) -> Any:
    log = sys.stderr
    if config.log is not None:
        try:
            log = open(config.log, "a", encoding="utf-8")  # noqa: SIM115 (as long as the process)
        except OSError as error:
            raise OptionError(f"--log {config.log!r} cannot be written: {reason_of(error)}") from error
    return create_app(config, api_key=api_key, metrics=Metrics(one_of_several=one_of_several), log=log)


def server_settings(config: ServeConfig, app: Any, **more: Any) -> Settings:
    settings = Settings(
        app,
        http=ImpatientProtocol,
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
        raise OptionError(f"--host {config.host!r} is no address of this machine ({reason_of(error)})") from error
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
        except OSError as error:
            where = f"{config.host}:{config.port}"
            raise OSError(f"nothing can listen on {where} ({reason_of(error)}); choose another --port") from error
        listening.set_inheritable(True)
        yield listening
