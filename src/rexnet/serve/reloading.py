"""Model files that are replaced while the server runs."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from rexnet.errors import WeightsError
from rexnet.serve.config import ServeConfig
from rexnet.serve.metrics import Metrics
from rexnet.serve.model_registry import Model, ModelRegistry
from rexnet.serve.opened import Identity, identity, open_served
from rexnet.text import printable

logger = logging.getLogger(__name__)

_POLL_S = 1.0


async def keep_fresh(registry: ModelRegistry, config: ServeConfig, metrics: Metrics) -> None:
    """Looks at the files for ever. A new one is opened and tried beside the old one, which goes on answering until then
    and, where the new one cannot be used, thereafter."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="reload")
    before: dict[str, Identity | None] = {}
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_POLL_S)
        for model in registry.models.values():
            now = await loop.run_in_executor(pool, _identity, model)
            settled = now == before.get(model.name)  # a file that is being copied still grows
            before[model.name] = now
            if now == model.seen or not settled:
                continue
            model.seen = now
            if now is None:
                outcome = _missing(model)
            else:
                outcome = await loop.run_in_executor(pool, _reload, model, config, metrics)
            metrics.reloads.labels(model.name, outcome).inc()


def _identity(model: Model) -> Identity | None:
    try:
        return identity(model.reference)
    except (OSError, WeightsError):  # between removing and moving there is none
        return None


def _missing(model: Model) -> str:
    file, version = printable(model.reference.text), model.current.version
    logger.warning("%s: %s is missing; version %s goes on answering", model.name, file, version)
    return "missing"


def _reload(model: Model, config: ServeConfig, metrics: Metrics) -> str:
    try:
        opened = open_served(model.reference, config, metrics.on_batch(model.name))
    except Exception as error:  # whatever is wrong with the new file, the old network answers
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("%s: the new %s is not taken up: %s", model.name, printable(model.reference.text), reason)
        return "failed"
    logger.info("%s: version %s in place of %s", model.name, opened.version, model.current.version)
    model.current = opened
    return "taken"
