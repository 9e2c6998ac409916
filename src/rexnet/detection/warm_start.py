"""A detector that starts from another one's weights."""

import logging
from typing import Any

from torch import nn

from rexnet.detection.checkpoints import TASK, detector_config
from rexnet.detection.detectors import DetectorConfig
from rexnet.errors import WeightsError
from rexnet.models.weights import CHECKPOINT_FORMAT, read_checkpoint_file

logger = logging.getLogger(__name__)


def is_detector_file(path: str) -> bool:
    content: dict[str, Any] = read_checkpoint_file(path)
    return content.get("format") == CHECKPOINT_FORMAT and content.get("task") == TASK


def load_detector_weights(model: nn.Module, path: str, *, classes: tuple[str, ...]) -> None:
    """Copies a detector's weights; where the class names differ, the layers that tell classes apart begin anew.

    Raises WeightsError, one sentence, for a detector of another kind or on another network.
    """
    content = read_checkpoint_file(path)
    config = detector_config(model)
    # A .safetensors file has lists where a .pt has tuples.
    theirs, mine = DetectorConfig.from_dict(content["detector"]).to_dict(), config.to_dict()
    for name in ("kind", "backbone"):
        if theirs[name] != mine[name]:
            had, wanted = (part["name"] if isinstance(part, dict) else part for part in (theirs[name], mine[name]))
            raise WeightsError(f"{path!r} is a detector with {name} {had}, but {wanted} is to be trained; give {had}")
    own = model.state_dict()
    kept = {
        name: values
        for name, values in content["state_dict"].items()
        if name in own
        and own[name].shape == values.shape
        and (tuple(content["classes"]) == classes or not _tells_classes(name))
    }
    model.load_state_dict(kept, strict=False)
    logger.info("%d of %d tensors of the detector loaded from %r", len(kept), len(own), path)


def _tells_classes(name: str) -> bool:
    return name.startswith(
        ("roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits", "head.classification_head")
    )
