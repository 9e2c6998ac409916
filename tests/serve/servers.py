"""Servers for tests: in memory, and behind a real socket."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from starlette.testclient import TestClient
from torch import Tensor

from rexnet.data.preprocess import Preprocess
from rexnet.references import Reference
from rexnet.serve.app import create_app
from rexnet.serve.batching import Batcher
from rexnet.serve.config import ServeConfig
from rexnet.serve.metrics import Metrics, ModelMetrics
from rexnet.serve.model_registry import Model, ModelRegistry
from rexnet.serve.opened import OpenModel
from rexnet.serve.run import server_settings
from tests.drawings import draw, encoded

SIDE_PX = 24
IMAGES = [encoded(draw(kind, seed), "PNG") for seed in range(4) for kind in ("cat", "dog", "fox")]


def config(*models: str | Path, **more) -> ServeConfig:
    settings = {"backend": "torch", "threads": 2, "reload": False, "port": 0, **more}
    return ServeConfig(models=tuple(map(str, models)) or ("made by hand",), **settings)


@contextmanager
def in_memory(config: ServeConfig, **more) -> Iterator[TestClient]:
    with TestClient(create_app(config, **more), raise_server_exceptions=False) as client:
        yield client


@contextmanager
def listening(config: ServeConfig, **more) -> Iterator[str]:
    """HOST:PORT of a server in a thread, which at the end finishes what it has accepted."""
    server = uvicorn.Server(server_settings(config, create_app(config, **more), port=config.port))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 60
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def by_hand(
    compute: Callable[[Sequence[Tensor], bool], Sequence[Tensor]], config: ServeConfig, *, lanes: int = 1
) -> ModelRegistry:
    """A registry with one classifier of the classes a and b, called `hand`, that is a function."""
    opened = OpenModel(
        kind="classifier",
        version="0",
        classes=("a", "b"),
        backend="torch",
        precision="fp32",
        prepare=Preprocess(image_size_px=SIDE_PX, crop_ratio=1.0),
        batcher=Batcher(compute, lanes=lanes, max_batch=config.max_batch, wait_ms=config.batch_wait_ms),
        metrics=ModelMetrics(Metrics(), "hand", "0"),
        image_size_px=SIDE_PX,
        image_shape=(3, SIDE_PX, SIDE_PX),
    )
    model = Model("hand", Reference("nowhere.pt", "weights"), opened, seen=(), queue_length=config.queue_length)
    return ModelRegistry([model], config)


def even(images: Sequence[Tensor], alone: bool) -> list[Tensor]:
    return [torch.tensor([0.5, 0.5]) for _ in images]


def form(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (f"{index}.png", image)) for index, image in enumerate(images)]
