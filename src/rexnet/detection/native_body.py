"""Backbones of detectors in the native engine, for inference on a CPU."""

import logging
from copy import deepcopy
from typing import Any, final

import torch
from torch import Tensor, nn

from rexnet.detection.backbones import RexNetBody
from rexnet.engines.native.library import why_missing
from rexnet.engines.native.network import LONGEST_SIDE_PX, NativeNetwork

logger = logging.getLogger(__name__)

_AGREE = 1e-3
"""Maximum difference of a map as a fraction of its largest value; rounding causes a hundredth of it."""


@final
class NativeBody(nn.Module):
    """A RexNetBody whose narrow maps the native engine computes, from its weights of now. Several threads may call it;
    copies and pickles open the engine again, or use PyTorch where it does not run."""

    def __init__(self, body: RexNetBody, *, threads: int | None):
        super().__init__()
        self.body, self._threads = body, threads
        self._native = NativeNetwork(body.network, threads=threads)

    def forward(self, x: Tensor) -> list[Tensor]:
        if max(x.shape[2:]) > LONGEST_SIDE_PX:
            return self.body(x)
        return list(self._native.feature_maps(x, self.body.strides).values())

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.body, self._threads)


def with_native_body(detector: nn.Module, *, threads: int | None) -> nn.Module | None:
    """Return a copy of the detector with its backbone in the native engine; None if the engine does not run here, does
    not compute this backbone (one of timm's, the expanded maps of SSDLite), or its maps differ from PyTorch's."""
    body = getattr(getattr(detector, "backbone", None), "body", None)
    if not isinstance(body, RexNetBody) or body.expanded or why_missing():
        return None
    native = _open(deepcopy(body), threads)
    return deepcopy(detector, {id(body): native}) if isinstance(native, NativeBody) else None


def _open(body: RexNetBody, threads: int | None) -> NativeBody | RexNetBody:
    try:
        native = NativeBody(body, threads=threads)
    except ValueError as error:
        logger.info("PyTorch computes the backbone: %s", error)
        return body
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pairs = zip(body(images), native(images), strict=True)
        agree = all((right - found).abs().max() <= _AGREE * right.abs().max() for right, found in pairs)
    if not agree:
        logger.warning("the native engine is not used: the backbone's maps differ from PyTorch's")
    return native if agree else body
