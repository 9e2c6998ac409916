"""Model registry: the models of a server by name, and the reloading of their files."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from rexnet.errors import WeightsError
from rexnet.references import Reference
from rexnet.serve.config import ServeConfig, named_references
from rexnet.serve.http_errors import HTTPError, busy, quoted
from rexnet.serve.images import open_upload
from rexnet.serve.metrics import Metrics
from rexnet.serve.opened import Identity, OpenModel, identity, open_served
from rexnet.text import printable

logger = logging.getLogger(__name__)

_POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Result for one image."""

    result: Any
    """Result of the model's batcher."""
    width: int
    """Size of the upright image in pixels, with `height`."""
    height: int
    decode_ms: float
    wait_ms: float
    compute_ms: float


class Model:
    """A named model, reloaded when its file changes."""

    def __init__(
        self,
        name: str,
        reference: Reference,
        current: OpenModel,
        *,
        seen: Identity | None,
        queue_length: int,
        on_pending: Callable[[int], None] = lambda count: None,
    ):
        self.name = name
        self.reference = reference
        self.current = current
        """Opened model, which a new file may replace at any time, so read it once per request."""
        self.seen = seen
        """Identity of the file that was last opened or rejected; None while it is missing."""
        self._queue_length = queue_length
        self._pending = 0
        self._on_pending = on_pending
        on_pending(0)

    @contextmanager
    def accepting(self, count: int) -> Iterator[None]:
        """Count images as pending within the context. Raise HTTPError with 429 if the queue is full."""
        if self._pending + count > self._queue_length:
            raise busy(f"the model {self.name} has {self._pending} pending images; allowed: {self._queue_length}")
        self._count(count)
        try:
            yield
        finally:
            self._count(-count)

    def _count(self, more: int) -> None:
        self._pending += more
        self._on_pending(self._pending)


class ModelRegistry:
    """Models of a server by name; the first one is the default."""

    def __init__(self, models: Sequence[Model], config: ServeConfig):
        self.models = {model.name: model for model in models}
        self._max_pixels = config.max_pixels
        self._decoders = ThreadPoolExecutor(config.threads_per_worker, thread_name_prefix="decode")

    def __getitem__(self, name: str | None) -> Model:
        """Return the model of that name; None: the first one. Raise HTTPError with 404 for an unknown name."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise HTTPError(404, f"there is no model {quoted(name)}; allowed: {', '.join(self.models)}")
        return self.models[name]

    async def in_thread(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Run the function in one of the decoding threads."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, partial(function, *arguments, **named))

    async def answer(self, opened: OpenModel, content: bytes) -> Answer:
        """Return the answer for the bytes of an image file. Raise HTTPError as `open_upload` does."""
        (width, height), item, decode_s = await self.in_thread(self._decode, opened, content)
        opened.metrics.observe("compute_input", decode_s)
        batched = await opened.batcher(item)
        return Answer(
            result=batched.result,
            width=width,
            height=height,
            decode_ms=1e3 * decode_s,
            wait_ms=batched.wait_ms,
            compute_ms=batched.compute_ms,
        )

    def _decode(self, opened: OpenModel, content: bytes) -> tuple[tuple[int, int], Any, float]:
        started = perf_counter()
        image = open_upload(content, max_pixels=self._max_pixels)
        item = opened.prepare(image)
        return image.size, item, perf_counter() - started


def open_registry(config: ServeConfig, metrics: Metrics) -> ModelRegistry:
    """Open the models of `config`. Raise ValueError for one that cannot be opened."""
    models = []
    for name, reference in named_references(config.models).items():
        if reference.kind not in ("timm", "torchvision"):
            reference.file.stat()
        logger.info("opening %s: %s", name, reference.text)
        seen = identity(reference)
        current = open_served(name, reference, config, metrics=metrics)
        pending = metrics.on_pending(name)
        models.append(Model(name, reference, current, seen=seen, queue_length=config.queue_length, on_pending=pending))
    return ModelRegistry(models, config)


async def watch_files(registry: ModelRegistry, config: ServeConfig, metrics: Metrics) -> None:
    """Poll the model files forever. A new file is opened and checked while the old model keeps answering; if the new
    file cannot be used, the old model stays."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="reload")
    before: dict[str, Identity | None] = {}
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_POLL_S)
        for model in registry.models.values():
            now = await loop.run_in_executor(pool, _current_identity, model)
            settled = now == before.get(model.name)  # still growing: the file is being copied
            before[model.name] = now
            if now == model.seen or not settled:
                continue
            model.seen = now
            if now is None:
                outcome = _log_missing(model)
            else:
                outcome = await loop.run_in_executor(pool, _reload, model, config, metrics)
            metrics.reloads.labels(model.name, outcome).inc()


def _current_identity(model: Model) -> Identity | None:
    try:
        return identity(model.reference)
    except (OSError, WeightsError):  # briefly missing: replaced by removing and moving
        return None


def _log_missing(model: Model) -> str:
    file, version = printable(model.reference.text), model.current.version
    logger.warning("%s: %s is missing; version %s stays in use", model.name, file, version)
    return "missing"


def _reload(model: Model, config: ServeConfig, metrics: Metrics) -> str:
    try:
        opened = open_served(model.name, model.reference, config, metrics=metrics)
    except Exception as error:  # catch all: the old network stays, whatever the error
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("%s: the new %s cannot be used: %s", model.name, printable(model.reference.text), reason)
        return "failed"
    logger.info("%s: version %s replaces %s", model.name, opened.version, model.current.version)
    model.current = opened
    return "taken"
