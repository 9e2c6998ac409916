"""Classifiers whose answers are known beforehand."""

from pathlib import Path

from rexnet.data.preprocess import Preprocess
from rexnet.training import checkpoint
from tests.networks import brightness_network

PLAIN = Preprocess(image_size_px=64, crop_ratio=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""The network sees what is there, from 0 to 1."""


def write_brightness(path: Path, classes: tuple[str, str] = ("bright", "dark")) -> Path:
    """A checkpoint that finds its first class where an image is bright."""
    checkpoint.save(path, checkpoint.pack(brightness_network(), {}, classes=classes, preprocess=PLAIN))
    return path
