"""Overlaps of boxes with anchors that fit into memory however many objects a picture has."""

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

_PAIRS_AT_ONCE = 2**22


def overlap_in_parts(boxes: Tensor, anchors: Tensor) -> Tensor:
    """float32 (N, M): torchvision's `box_iou` of (N, 4) and (M, 4), the same numbers.

    For 1000 objects and the 200,000 anchors of a large picture these are 0.8 GB, and torchvision needs eight times as
    much on the way to them; here the rest is small.
    """
    part = max(1, _PAIRS_AT_ONCE // max(1, len(boxes)))
    if part >= len(anchors):
        return box_iou(boxes, anchors)
    overlaps = torch.empty(len(boxes), len(anchors), dtype=boxes.dtype, device=boxes.device)
    for start in range(0, len(anchors), part):
        overlaps[:, start : start + part] = box_iou(boxes, anchors[start : start + part])
    return overlaps


def match_in_parts(detector: nn.Module) -> None:
    """Makes the first stage, which matches every anchor, use `overlap_in_parts`; SSDLite has few anchors."""
    if "rpn" in dict(detector.named_children()):
        vars(detector.get_submodule("rpn"))["box_similarity"] = overlap_in_parts
