"""Steps that are left out because their loss or gradient is not finite."""

import json
import logging

from rexnet.errors import NonFiniteError
from rexnet.training.distributed import World
from rexnet.training.run_folder import DISCARDED, RunFolder

logger = logging.getLogger(__name__)

MAX_DISCARDED_STEPS = 10
"""Of one epoch; one more ends the run, and so does an epoch that has no other steps."""


def note_discarded(
    mine: list[str], *, count: int, of: int, epoch: int, step: int, run: RunFolder, world: World
) -> None:
    """Writes down and tells which step of the run is left out, the `count`th of the epoch's `of`; or ends the run.

    `mine` is what is not finite on this process and the names of its images, empty where all is; every process calls.
    """
    parts = [part for text in world.gather([json.dumps(mine)]) if (part := json.loads(text))]
    what, names = parts[0][0], [name for part in parts for name in part[1:]]
    if world.is_main:
        run.append({"epoch": epoch, "step": step, "what": what, "images": names}, name=DISCARDED)
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    if count > MAX_DISCARDED_STEPS or count == of:
        raise NonFiniteError(
            f"{count} of {of} steps of epoch {epoch} had to be left out, at the last the {what}; its images are {some}"
            f", those of all in {run.path / DISCARDED}; a lower --lr or --clip-grad 1 often helps"
        )
    if world.is_main:
        logger.warning("step %d is left out because the %s; its images: %s", step, what, some)
