"""Object detection and instance segmentation: torchvision's detectors on our networks."""

from rexnet.detection.checkpoints import load_detector
from rexnet.detection.detectors import create_detector
from rexnet.detection.runtime import ObjectPredictor

__all__ = ["ObjectPredictor", "create_detector", "load_detector"]
