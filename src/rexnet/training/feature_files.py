"""Features of images that were computed once, in the run folder."""

import hashlib
import json
import logging
from typing import NamedTuple

from torch import Tensor

from rexnet.data.datasets import ImageSets
from rexnet.files import write_whole
from rexnet.models.rexnet import RexNet
from rexnet.text import reason_of
from rexnet.training import checkpoint
from rexnet.training.config import TrainConfig
from rexnet.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

FILE = "features.safetensors"


class Features(NamedTuple):
    """Of a set of N images: `values` float32 (V, N, C), after pooling, V = 1 as in evaluation, 2 also mirrored;
    `readable` float32 (N,), 1 or 0."""

    values: Tensor
    readable: Tensor


def features_key(model: RexNet, sets: ImageSets, config: TrainConfig) -> str:
    """Of everything that features follow from, the images by their names and number alone."""
    augment, run = config.augment, config.run
    sizes = [len(sets.train), len(sets.val)]
    facts = [config.input.preprocess().to_dict(), run.amp, augment.horizontal_flip > 0, sizes]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for images in (sets.train, sets.val):
        for index in range(len(images)):
            digest.update(images.name(index).encode("utf-8", "surrogateescape") + b"\0")
    for name, tensor in checkpoint.portable(model.features.state_dict()).items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def write_features(run: RunFolder, key: str, found: list[Features]) -> None:
    from safetensors.torch import save

    tensors = {f"{part}.{side}": tensor for side, each in enumerate(found) for part, tensor in each._asdict().items()}
    try:
        write_whole(run.path / FILE, save(tensors, metadata={"key": key}))
    except OSError as error:
        told = "%s could not be written (%s): --resume will compute it anew"
        logger.warning(told, run.path / FILE, reason_of(error))


def read_features(run: RunFolder, key: str) -> list[Features] | None:
    """What `write_features` wrote; None where that is missing, damaged, or of other weights, pixels or images."""
    from safetensors import SafetensorError, safe_open

    if not run.holds(FILE):
        return None
    try:
        with safe_open(run.path / FILE, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return [Features(file.get_tensor(f"values.{side}"), file.get_tensor(f"readable.{side}")) for side in (0, 1)]
    except (SafetensorError, OSError) as error:
        logger.warning("%s is damaged (%s) and computed anew", run.path / FILE, error)
        return None
