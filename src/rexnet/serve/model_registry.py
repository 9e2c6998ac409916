"""The models of a server side by side, each with a bounded number of images in work."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from rexnet.deploy.predictor import PREDICTABLE
from rexnet.errors import OptionError, WeightsError
from rexnet.references import BEST, Reference, resolve
from rexnet.serve.config import ServeConfig
from rexnet.serve.http_errors import HTTPError, busy, shown
from rexnet.serve.images import open_sent
from rexnet.serve.metrics import Metrics
from rexnet.serve.opened import Identity, OpenModel, identity, open_served

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Of one image."""

    result: Any
    """What the model's batcher gives."""
    width: int
    """Of the upright image, in pixels, like `height`."""
    height: int
    decode_ms: float
    wait_ms: float
    compute_ms: float


class Model:
    """A name under which a model answers, whichever state of its file that is."""

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
        """Take it once a request: a new file may replace it at any time."""
        self.seen = seen
        """Of the file that was last opened or tried; None while it is missing."""
        self._queue_length = queue_length
        self._pending = 0
        self._on_pending = on_pending
        on_pending(0)

    @contextmanager
    def accepting(self, count: int) -> Iterator[None]:
        """So many images are in work meanwhile. HTTPError with 429 where that would be too many."""
        if self._pending + count > self._queue_length:
            raise busy(f"{self.name} has {self._pending} images in work and takes {self._queue_length} at most")
        self._count(count)
        try:
            yield
        finally:
            self._count(-count)

    def _count(self, more: int) -> None:
        self._pending += more
        self._on_pending(self._pending)


class ModelRegistry:
    """The models of a server by name; the first one is the default."""

    def __init__(self, models: Sequence[Model], config: ServeConfig):
        self.models = {model.name: model for model in models}
        self._max_pixels = config.max_pixels
        self._decoders = ThreadPoolExecutor(config.threads_of_a_worker, thread_name_prefix="decode")

    def __getitem__(self, name: str | None) -> Model:
        """The first model for None. HTTPError with 404 for a name that is not there."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise HTTPError(404, f"there is no model {shown(name)}; allowed: {', '.join(self.models)}")
        return self.models[name]

    async def in_thread(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """For work on one image or request, as many at once as the server has threads."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, partial(function, *arguments, **named))

    async def answer(self, opened: OpenModel, content: bytes) -> Answer:
        """Of the bytes of an image file. HTTPError as of `open_sent`."""
        (width, height), item, decode_ms = await self.in_thread(self._read, opened, content)
        batched = await opened.batcher(item)
        return Answer(
            result=batched.result,
            width=width,
            height=height,
            decode_ms=decode_ms,
            wait_ms=batched.wait_ms,
            compute_ms=batched.compute_ms,
        )

    def _read(self, opened: OpenModel, content: bytes) -> tuple[tuple[int, int], Any, float]:
        started = perf_counter()
        image = open_sent(content, max_pixels=self._max_pixels)
        item = opened.prepare(image)
        return image.size, item, (perf_counter() - started) * 1e3


def named_references(models: Sequence[str]) -> dict[str, Reference]:
    """Return the references of NAME=MODEL or MODEL by name. OptionError for what cannot be a name, for a name given
    twice and for what is not a MODEL that predicts."""
    found: dict[str, Reference] = {}
    for argument in models:
        name, reference = _split(argument)
        if name in found:
            raise OptionError(
                f"two models are called {name!r} ({found[name].text} and {reference.text}); give one of them another "
                f"name, as in other={reference.text}"
            )
        found[name] = reference
    return found


def _split(argument: str) -> tuple[str, Reference]:
    name, equals, model = argument.partition("=")
    if not equals or Path(argument).exists():
        name, model = "", argument
    try:
        reference = resolve(model, allowed=PREDICTABLE)
        if reference.kind not in ("timm", "torchvision"):
            reference.file.stat()
    except (WeightsError, FileNotFoundError) as error:
        raise OptionError(str(error)) from error
    name = name or _name_of(reference)
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"{name!r} cannot be the name of a model; allowed: 1 to 64 letters, digits, '.', '_' and '-', as in "
            f"flowers={model}"
        )
    return name, reference


def _name_of(reference: Reference) -> str:
    if reference.kind == "hub":
        return reference.text.partition("@")[0].rpartition("/")[2]
    if reference.kind in ("run", "folder"):
        return reference.path.absolute().name
    if reference.kind in ("weights", "exported"):
        file = reference.path
        return file.absolute().parent.name if file.name == BEST else file.stem
    return reference.name


def open_registry(config: ServeConfig, metrics: Metrics) -> ModelRegistry:
    """All models of `config`. ValueError, one sentence, for one that cannot be opened."""
    models = []
    for name, reference in named_references(config.models).items():
        logger.info("opening %s: %s", name, reference.text)
        seen = identity(reference)
        current = open_served(reference, config, metrics.on_batch(name))
        pending = metrics.on_pending(name)
        models.append(Model(name, reference, current, seen=seen, queue_length=config.queue_length, on_pending=pending))
    return ModelRegistry(models, config)
