"""Object detection and instance segmentation: torchvision's detectors on our networks."""

from rexnet.detection.detectors import create_detector

__all__ = ["create_detector"]
