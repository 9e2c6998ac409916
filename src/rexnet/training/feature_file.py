"""File of a run folder with the features of all images, and the engine that computed them."""

import logging
from typing import NamedTuple

from torch import Tensor

from rexnet.files import write_whole
from rexnet.text import reason_of
from rexnet.training.run_folder import ENVIRONMENT, RunFolder

logger = logging.getLogger(__name__)

FILE = "features.safetensors"
TORCH = "torch"


class Features(NamedTuple):
    """Features of N images: `values` float32 (V, N, C), after pooling, with V = 1, or V = 2 to include the mirror
    images; `readable` float32 (N,), 1 or 0."""

    values: Tensor
    readable: Tensor


def write_features(run: RunFolder, key: str, found: list[Features], *, engine: str) -> None:
    """Write the features, and before them their engine to environment.json. Warn if a resumed run began with
    another's."""
    from safetensors.torch import save

    if run.has_checkpoint and (before := engine_of(run)) != engine:
        text = "%s was missing: its features were computed by %s, and now by %s; they agree up to rounding"
        logger.warning(text, run.path / FILE, before, engine)
    run.write(ENVIRONMENT, {**run.read(ENVIRONMENT), "features_engine": engine})
    tensors = {f"{part}.{split}": tensor for split, each in enumerate(found) for part, tensor in each._asdict().items()}
    try:
        write_whole(run.path / FILE, save(tensors, metadata={"key": key}))
    except OSError as error:
        text = "%s could not be written (%s), so --resume will compute the features again"
        logger.warning(text, run.path / FILE, reason_of(error))


def engine_of(run: RunFolder) -> str:
    """Return the engine that computed the features of a run; older versions, which did not record it, used PyTorch."""
    return run.read(ENVIRONMENT).get("features_engine", TORCH)


def read_features(run: RunFolder, key: str) -> list[Features] | None:
    """Read the features, whose engine need not run here; return None if they are missing, damaged, or from other
    weights, preprocessing or images."""
    from safetensors import SafetensorError, safe_open

    if not run.holds(FILE):
        return None
    try:
        with safe_open(run.path / FILE, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return [
                Features(file.get_tensor(f"values.{split}"), file.get_tensor(f"readable.{split}")) for split in (0, 1)
            ]
    except (SafetensorError, OSError) as error:
        logger.warning("%s is damaged (%s) and is computed again", run.path / FILE, error)
        return None
