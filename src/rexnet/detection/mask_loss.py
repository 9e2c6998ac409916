"""Mask R-CNN's losses on objects of which some have no mask."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss


def learn_masks_where_given(detector: nn.Module) -> None:
    """Make the heads of Mask R-CNN compute the box losses from all objects and the mask loss from those with a mask.

    A target's mask of zeros stands for none; torchvision would teach that nothing of the object is in its box.
    """
    heads: Any = detector.get_submodule("roi_heads")
    # A partial of a bound method is copied with the detector, where a closure would go on using this one.
    vars(heads)["forward"] = partial(_forward, heads.forward)


def _forward(
    plain: Callable[..., Any],
    features: dict[str, Tensor],
    proposals: list[Tensor],
    image_shapes: list[tuple[int, int]],
    targets: list[dict[str, Tensor]] | None = None,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Compute torchvision's RoIHeads.forward, whose steps and order these are, with other objects in the mask loss."""
    heads: Any = plain.__self__  # pyright: ignore[reportFunctionMemberAccess]
    if not heads.training or targets is None:
        return plain(features, proposals, image_shapes, targets)
    proposals, matches, labels, regression = heads.select_training_samples(proposals, targets)
    crops = heads.box_head(heads.box_roi_pool(features, proposals, image_shapes))
    scores, offsets = heads.box_predictor(crops)
    classification_loss, box_loss = fastrcnn_loss(scores, offsets, labels, regression)
    outlined = [
        torch.where((label > 0) & has_mask(target)[match])[0] if len(target["masks"]) else label.new_zeros(0)
        for label, match, target in zip(labels, matches, targets, strict=True)
    ]
    proposals, matches = (
        [each[rows] for each, rows in zip(part, outlined, strict=True)] for part in (proposals, matches)
    )
    logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, proposals, image_shapes)))
    masks, classes = ([target[key] for target in targets] for key in ("masks", "labels"))
    mask_loss = maskrcnn_loss(logits, proposals, masks, classes, matches)
    return [], {"loss_classifier": classification_loss, "loss_box_reg": box_loss, "loss_mask": mask_loss}


def has_mask(target: dict[str, Tensor]) -> Tensor:
    """bool (N,): the objects whose mask covers a pixel."""
    return target["masks"].flatten(1).any(dim=1).bool()
