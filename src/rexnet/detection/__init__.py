"""Object detection and instance segmentation: torchvision's detectors with ReXNet and timm backbones."""

from typing import TYPE_CHECKING

from rexnet.lazy import lazy_names

if TYPE_CHECKING:
    from rexnet.detection.checkpoints import load_detector
    from rexnet.detection.detectors import create_detector
    from rexnet.detection.runtime import ObjectPredictor

__all__ = ["ObjectPredictor", "create_detector", "load_detector"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ObjectPredictor": "rexnet.detection.runtime",
        "create_detector": "rexnet.detection.detectors",
        "load_detector": "rexnet.detection.checkpoints",
    },
)
