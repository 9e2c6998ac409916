"""A server of hand-made networks, whose answers are known beforehand."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from rexnet.data.transforms import Preprocess
from rexnet.models.rexnet import RexNet
from rexnet.training import checkpoint
from tests.networks import brightness_network

if TYPE_CHECKING:
    from fastapi import FastAPI

PLAIN = Preprocess(image_size_px=64, crop_ratio=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""The network sees what is there, from 0 to 1."""


def write_checkpoint(path: Path, model: RexNet, *, classes: tuple[str, ...], preprocess: Preprocess = PLAIN) -> Path:
    checkpoint.save(path, checkpoint.pack(model, {}, classes=classes, preprocess=preprocess))
    return path


def write_brightness(path: Path, classes: tuple[str, str] = ("bright", "dark")) -> Path:
    """A classifier that finds its first class where a picture is bright."""
    return write_checkpoint(path, brightness_network(), classes=classes)


@contextmanager
def running(app: "FastAPI") -> Iterator[str]:
    """The address of `app`, served by a thread on a free port."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until = monotonic() + 30
        while not server.started and monotonic() < until:
            sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
