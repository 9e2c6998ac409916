"""Drawn shapes to try detection with, without a download."""

from rexnet.data.boxes.shapes import draw_shapes
from rexnet.detection.config import DemoConfig


def draw_demo(config: DemoConfig) -> dict[str, int]:
    """Number of pictures by side; errors as of `draw_shapes`."""
    return draw_shapes(config.output, images=config.images, seed=config.seed, size_px=config.size_px)
