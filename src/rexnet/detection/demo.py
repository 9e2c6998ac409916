"""Drawn shapes to try detection with, without a download."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from rexnet.data.boxes.shapes import draw_shapes
from rexnet.errors import require


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Draws circles, triangles, squares and crosses with boxes and masks, as a folder in COCO's layout."""

    output: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")] = "shapes"
    """A new or empty folder."""
    images: int = 400
    """Pictures to train on; a quarter as many are held back."""
    size_px: int = 128
    """Side of a picture."""
    seed: int = 0
    """The same seed draws the same pictures."""

    def __post_init__(self) -> None:
        require(self.images >= 4, "images", self.images, "4 or more")
        require(self.size_px >= 32, "size_px", self.size_px, "32 or more")
        require(self.seed >= 0, "seed", self.seed, "0 or more")


def draw_demo(config: DemoConfig) -> dict[str, int]:
    """Number of pictures by side; errors as of `draw_shapes`."""
    return draw_shapes(config.output, images=config.images, seed=config.seed, size_px=config.size_px)
