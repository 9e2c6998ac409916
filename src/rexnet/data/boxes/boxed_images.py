"""What the readers of other annotation formats hand on: images with named boxes."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rexnet.data.decode import open_image
from rexnet.errors import BadImageError
from rexnet.processes import in_parallel

Side = Literal["train", "val"]


class NamedBox(NamedTuple):
    """x, y of the upper left corner, width and height in pixels from 0; `polygon` as x, y, x, y, ... where there is
    one. `ignored`: neither trained on nor counted as missed."""

    name: str
    box: tuple[float, float, float, float]
    polygon: tuple[float, ...] | None = None
    ignored: bool = False


class BoxedImage(NamedTuple):
    """`file_name` is the name that the image gets below the folder of its side."""

    path: str
    file_name: str
    width_px: int
    height_px: int
    boxes: list[NamedBox]


@dataclass(kw_only=True)
class BoxedImages:
    """By side, None being images of data without sides. `left_out`: a line for all that could not be used."""

    classes: tuple[str, ...]
    sides: dict[Side | None, list[BoxedImage]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def upright_sizes_px(paths: list[str], *, workers: int) -> list[tuple[int, int] | str]:
    """(width, height) of each image, or why it cannot be read. Images are decoded: some formats tell only at the end
    which way is up."""
    return list(in_parallel(_upright_size_px, paths, workers=workers, label="reading images")) if paths else []


def _upright_size_px(path: str) -> tuple[int, int] | str:
    try:
        return open_image(path).size
    except BadImageError as error:
        return error.reason
