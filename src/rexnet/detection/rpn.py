"""The order in which the first stage's regions stay when they overlap or are too many."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

_SHARE = 1 / 16
"""A power of two, which loses no digit."""


def rank_regions_by_logits(detector: nn.Module) -> None:
    """Makes a two-stage detector keep the regions with the highest logits.

    torchvision ranks by their sigmoid, which in float32 is the same number, 1, for all logits above 17 and has few
    steps below: the regions that stay are then a matter of rounding, and others in ONNX Runtime and OpenVINO. Only
    the order counts, and a sixteenth of the logits has the same.
    """
    if "rpn" in dict(detector.named_children()):
        stage: Any = detector.get_submodule("rpn")
        # A partial of a bound method is copied with the detector, where a closure would go on using this one.
        vars(stage)["filter_proposals"] = partial(_filter, stage.filter_proposals)


def _filter(plain: Callable[..., Any], proposals: Tensor, objectness: Tensor, *others: Any) -> Any:
    return plain(proposals, objectness * _SHARE, *others)
