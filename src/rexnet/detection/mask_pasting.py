"""Masks of regions as masks of whole pictures, in a form that engines run rightly.

torchvision's own form for graphs is a loop that joins tensors, some of them empty; OpenVINO puts out other values below
masks that are one pixel wide.
"""

from typing import Any

import torch
from torch import Tensor, nn


def paste_by_products(transform: Any) -> None:
    """Makes the transform of a Mask R-CNN, which ends a detection of one image, use `pasted`."""
    plain = transform.postprocess

    def postprocess(results: list[dict[str, Tensor]], shapes: Any, sizes: Any) -> list[dict[str, Tensor]]:
        (found,) = plain([{name: part for name, part in results[0].items() if name != "masks"}], shapes, sizes)
        return [{**found, "masks": pasted(results[0]["masks"], found["boxes"], sizes[0])}]

    vars(transform)["postprocess"] = postprocess


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (N, 1, side, side) of boxes (N, 4), x0 y0 x1 y1 in pixels of a picture of `size`, height and width ->
    (N, 1, height, width): the numbers of torchvision's `paste_masks_in_image`, models/detection/roi_heads.py.

    Interpolation along one axis is a product of matrices.
    """
    inner = int(masks.shape[-1])
    bordered = nn.functional.pad(masks[:, 0], (1, 1, 1, 1))
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((inner + 2) / inner)
    first, last = (centre - half).long(), (centre + half).long()
    across, down = (_weights(first[:, axis], last[:, axis], size[1 - axis], inner + 2) for axis in (0, 1))
    return (down @ bordered @ across.transpose(1, 2))[:, None]


def _weights(first: Tensor, last: Tensor, length: int, side: int) -> Tensor:
    """(N, length, side): what each of `side` cells, stretched from pixel `first` to pixel `last` (N,), gives to each of
    `length` pixels."""
    pixels = torch.arange(length)
    from_first = pixels - first[:, None]
    lengths = (last - first + 1).clamp(min=1)[:, None]
    at = ((from_first + 0.5) * (side / lengths) - 0.5).clamp(min=0, max=side - 1)
    weights = (1 - (at[..., None] - torch.arange(side)).abs()).clamp(min=0)
    inside = (from_first >= 0) & (pixels <= last[:, None])
    return weights * inside[..., None]
