"""The end of a run: how to go on from an interruption, and summary.json."""

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rexnet.training import checkpoint
from rexnet.training.distributed import World
from rexnet.training.metrics import METRICS
from rexnet.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@contextmanager
def resumable(run: RunFolder, world: World, *, command: str) -> Iterator[None]:
    """Says with which command a run that is stopped inside this context continues."""
    try:
        yield
    except KeyboardInterrupt:
        if world.is_main:
            logger.warning("`%s --resume %s` continues where it stopped", command, shlex.quote(str(run.path)))
        raise


def write_summary(
    run: RunFolder, facts: dict[str, Any], best: dict[str, Any], *, goal: str, skipped: list[str], world: World
) -> dict[str, Any]:
    """summary.json: what was trained on what (`facts`), the best epoch's row, and the images that could not be read.
    Written by the main process, returned by all."""
    if run.holds("summary.json"):  # a finished run that was resumed has read nothing
        skipped = sorted({*skipped, *run.read("summary.json")["skipped"]})
    summary = {"run": str(run.path), **facts, "goal": goal, "best": best, "skipped": skipped}
    if world.is_main:
        run.write("summary.json", summary)
        checkpoint.warn_of_lost_best(run)
        metric = METRICS[goal]
        logger.info("best %s %s, of epoch %d: %s", metric.label, metric.text(best[metric.key]), best["epoch"], run.best)
    return summary
