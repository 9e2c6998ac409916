"""Checkpoints of detectors, from which a detector and its class names are rebuilt, or another detector is
initialised."""

import logging
import os
from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import nn

from rexnet._version import __version__
from rexnet.detection.detectors import DetectorConfig, build_detector
from rexnet.errors import WeightsError
from rexnet.models.weights import CHECKPOINT_FORMAT, read_checkpoint_file
from rexnet.references import OWN_WEIGHTS, resolve
from rexnet.text import normal_name
from rexnet.training import checkpoint

logger = logging.getLogger(__name__)

TASK = checkpoint.DETECTION
SCORE_THRESHOLD = 0.5
"""Score threshold for a file that does not hold one."""


class TrainedDetector(NamedTuple):
    """Detector in eval mode with its class names and category ids."""

    model: nn.Module
    classes: tuple[str, ...]
    """Class names; label i + 1 is classes[i]."""
    category_ids: tuple[int, ...]
    """Category ids of the training annotations, in the order of `classes`."""
    score_threshold: float = SCORE_THRESHOLD
    """Minimum score, 0 to 1, of the objects that `rexnet serve` and its page show."""


def pack(
    model: nn.Module,
    metrics: dict[str, Any],
    *,
    classes: Sequence[str],
    category_ids: Sequence[int],
    score_threshold: float = SCORE_THRESHOLD,
) -> dict[str, Any]:
    """Return a self-contained checkpoint of a detector, as tensors on the CPU and plain values."""
    return {
        "format": CHECKPOINT_FORMAT,
        "task": TASK,
        "detector": detector_config(model).to_dict(),
        "state_dict": checkpoint.portable(model.state_dict()),
        "classes": list(classes),
        "category_ids": [int(number) for number in category_ids],
        "score_threshold": score_threshold,
        "metrics": metrics,
        "versions": {"rexnet": __version__, "torch": str(torch.__version__)},
    }


def detector_config(model: nn.Module) -> DetectorConfig:
    config = vars(model)["config"]
    assert isinstance(config, DetectorConfig)
    return config


def load_detector(path: str | PathLike[str], device: str | torch.device = "cpu") -> TrainedDetector:
    """Return the detector in a run folder or checkpoint of `rexnet detect train`, rebuilt from the file alone, in eval
    mode.

    Raise WeightsError for a file that cannot be used.
    """
    file = resolve(path, allowed=OWN_WEIGHTS).file
    trained = unpack(checkpoint.read(file), source=os.fspath(path))
    return trained._replace(model=trained.model.to(device))


def unpack(content: dict[str, Any], *, source: str) -> TrainedDetector:
    """Rebuild the detector from a result of `pack`; see `load_detector`."""
    if content.get("task") != TASK:
        raise WeightsError(
            f"checkpoint {source!r} holds a classifier, but a detector is needed here; use `rexnet predict` or "
            "`rexnet validate` for it"
        )
    try:
        model = build_detector(DetectorConfig.from_dict(content["detector"]))
        model.load_state_dict(content["state_dict"])
        classes, category_ids = tuple(content["classes"]), tuple(map(int, content["category_ids"]))
        if not len(classes) == len(category_ids) == detector_config(model).num_classes:
            raise ValueError(f"{len(classes)} class names and {len(category_ids)} category ids, not one per class")
        score_threshold = read_score_threshold(content)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"checkpoint {source!r} is inconsistent ({type(error).__name__}: {reason})") from error
    return TrainedDetector(model.eval(), classes, category_ids, score_threshold)


def read_score_threshold(facts: dict[str, Any]) -> float:
    """Return the score threshold in a detector's metadata. Raise TypeError or ValueError unless it is a number from 0
    to 1."""
    found = float(facts.get("score_threshold", SCORE_THRESHOLD))
    if not 0 <= found <= 1:
        raise ValueError(f"its score threshold is {found}; allowed: 0 to 1")
    return found


def is_detector_file(path: str) -> bool:
    content: dict[str, Any] = read_checkpoint_file(path)
    return content.get("format") == CHECKPOINT_FORMAT and content.get("task") == TASK


def load_detector_weights(model: nn.Module, path: str, *, classes: tuple[str, ...]) -> None:
    """Copy a detector's weights; if the class names differ, the classification layers stay random.

    Raise WeightsError for a detector of another kind or with another backbone.
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
        and (tuple(map(normal_name, content["classes"])) == classes or not _tells_classes(name))
    }
    model.load_state_dict(kept, strict=False)
    logger.info("%d of %d tensors of the detector loaded from %r", len(kept), len(own), path)


def _tells_classes(name: str) -> bool:
    return name.startswith(
        ("roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits", "head.classification_head")
    )
