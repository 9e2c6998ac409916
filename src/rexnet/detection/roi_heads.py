"""RoI heads of two-stage detectors: a faster RoIAlign, and a mask loss that skips objects without a mask.

Each cell of a proposal's grid is a weighted sum of 16 positions of a map: four samples with four neighbours each. An
embedding bag computes such sums on all cores, forward and backward, while the backward pass of torchvision's kernel
uses one core. On a CPU, RoIAlign here is therefore several times faster.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from rexnet.detection.backbones import STRIDES
from rexnet.training.freezing import replace_module

SAMPLES = 2
"""Samples in each direction of a cell, as in torchvision's detectors."""


@final
class FastRoIAlign(nn.Module):
    """torchvision's MultiScaleRoIAlign over the maps of STRIDES: the same values up to rounding on the CPU, and
    torchvision's kernel on other devices.

    `forward(maps, boxes, image_sizes)`: maps by name, (B, C, H, W) each; boxes (N, 4) of every image as x0 y0 x1 y1 in
    its pixels -> (sum of N, C, side, side). Source: torchvision, ops/poolers.py and ops/cpu/roi_align_kernel.cpp.
    """

    def __init__(self, pooler: MultiScaleRoIAlign):
        super().__init__()
        assert pooler.sampling_ratio == SAMPLES and len(pooler.featmap_names) == len(STRIDES)
        self.pooler = pooler

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        chosen = [maps[name] for name in self.pooler.featmap_names]
        if not chosen[0].is_cpu:
            return self.pooler(maps, boxes, image_sizes)
        side, count, channels = self.pooler.output_size[0], sum(map(len, boxes)), chosen[0].shape[1]
        positions, weights = self._cells(chosen, boxes, side)
        table = torch.cat([features.permute(0, 2, 3, 1).reshape(-1, channels) for features in chosen])
        if table.dtype != torch.float64:  # torchvision also computes in float32 under autocast
            table = table.float()
        weights = weights.to(table.dtype)
        cells = nn.functional.embedding_bag(positions, table, per_sample_weights=weights, mode="sum")
        return cells.view(count, side, side, channels).permute(0, 3, 1, 2)

    @torch.no_grad()
    def _cells(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], side: int) -> tuple[Tensor, Tensor]:
        """Return the indices (cells, 16) of the table's rows that each cell sums, cells in row-major order, and their
        weights."""
        region = torch.cat(list(boxes)).float()
        image = torch.cat([torch.full((len(part),), number) for number, part in enumerate(boxes)])
        areas = (region[:, 2] - region[:, 0]) * (region[:, 3] - region[:, 1])
        # Feature Pyramid Networks (arXiv 1612.03144), equation 1.
        finest = torch.floor(
            self.pooler.canonical_level + torch.log2(areas.sqrt() / self.pooler.canonical_scale) + 1e-6
        )
        level = finest.clamp(2, 1 + len(STRIDES)).long() - 2
        heights, widths = (torch.tensor([features.shape[axis] for features in maps])[level] for axis in (2, 3))
        sizes = torch.tensor([0, *(features.numel() // features.shape[1] for features in maps)])
        start = sizes.cumsum(0)[level] + image * heights * widths
        scaled = region / torch.tensor(STRIDES)[level][:, None]
        rows, of_rows = _neighbours(scaled[:, 1], scaled[:, 3], heights, side)
        columns, of_columns = _neighbours(scaled[:, 0], scaled[:, 2], widths, side)
        # (proposals, cells down, cells across, samples and neighbours down, the same across)
        index = start[:, None, None, None, None] + (
            rows[:, :, None, :, None] * widths[:, None, None, None, None] + columns[:, None, :, None, :]
        )
        weights = of_rows[:, :, None, :, None] * of_columns[:, None, :, None, :] / SAMPLES**2
        return index.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _neighbours(low: Tensor, high: Tensor, size: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return, along one axis of proposals from `low` to `high` (N,) on maps of `size` (N,), the positions (N, side,
    samples x 2) that the `side` cells read, and their weights, 0 for a sample outside the map."""
    cell = (high - low).clamp(min=1.0)[:, None, None] / side
    steps, samples = torch.arange(side)[:, None], torch.arange(SAMPLES)
    at = low[:, None, None] + steps * cell + (samples + 0.5) * cell / SAMPLES
    last = (size - 1)[:, None, None]
    inside = (at >= -1.0) & (at <= last + 1)
    at = at.clamp(min=0.0).minimum(last)
    before = at.floor()
    fraction = at - before
    positions = torch.stack([before.long(), (before.long() + 1).minimum(last)], dim=3)
    weights = torch.stack([1.0 - fraction, fraction], dim=3) * inside[..., None]
    return positions.flatten(2), weights.flatten(2)


def use_fast_roi_align(detector: nn.Module) -> None:
    """Wrap the poolers of a two-stage detector in FastRoIAlign."""
    for name, module in list(detector.named_modules()):
        if isinstance(module, MultiScaleRoIAlign):
            replace_module(detector, name, FastRoIAlign(module))


def learn_masks_where_given(detector: nn.Module) -> None:
    """Make the heads of Mask R-CNN compute the box losses from all objects and the mask loss from those with a mask.

    A mask of zeros in a target means that the object has no mask; torchvision would train an empty mask.
    """
    heads: Any = detector.get_submodule("roi_heads")
    # A partial of a bound method is copied with the detector; a closure would keep using this one.
    vars(heads)["forward"] = partial(_forward, heads.forward)


def _forward(
    plain: Callable[..., Any],
    features: dict[str, Tensor],
    proposals: list[Tensor],
    image_shapes: list[tuple[int, int]],
    targets: list[dict[str, Tensor]] | None = None,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Run torchvision's RoIHeads.forward, step by step in the same order, except that the mask loss skips objects
    without a mask."""
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
    """Return bool (N,): whether an object's mask covers any pixel."""
    return target["masks"].flatten(1).any(dim=1).bool()
