"""Heat maps of the image regions that support a class: Grad-CAM (arXiv 1610.02391, equations 1 and 2)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from rexnet.models.rexnet import RexNet

MIN_CELLS = 4
"""Minimum side of a map, in cells, that still localises."""


def grad_cam(model: RexNet, images: Tensor, classes: Tensor) -> Tensor:
    """Return heat maps (B, H, W), from 0 to 1, of images (B, 3, H, W) for class indices (B,).

    1 marks the strongest support for the class; an image without any support is 0 everywhere. The explained map is that
    of `map_layer`. `model` runs in eval mode; its mode and gradients are restored.
    """
    layer = map_layer(model, min(images.shape[2:]))
    with _evaluating(model), torch.enable_grad():
        with torch.no_grad():
            before = model.features[: layer + 1](images)
        features = before.detach().requires_grad_()
        logits = model.forward_head(model.features[layer + 1 : model.num_feature_layers](features))
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), features)
    weights = gradient.mean((2, 3), keepdim=True)
    heat = functional.relu((weights * features.detach()).sum(1, keepdim=True)).float()
    heat = functional.interpolate(heat, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    highest = heat.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, heat / highest, 0.0)


def map_layer(model: RexNet, side_px: int) -> int:
    """Return the index in `features` of the layer whose map is explained: the last with at least MIN_CELLS cells per
    side.

    At 224 pixels that is the network's last map, as in the Grad-CAM paper; small images shrink to one or two cells
    there, which would show nothing. Without such a layer, return the first level.
    """
    return _explained_level(model, side_px)[1]


def map_cells(model: RexNet, side_px: int) -> int:
    """Return the side of that map, in cells."""
    return -(-side_px // _explained_level(model, side_px)[0])


def _explained_level(model: RexNet, side_px: int) -> tuple[int, int]:
    """(stride, layer)"""
    levels = [(level.stride, level.layer) for level in model.feature_levels[:-1]]
    levels.append((model.feature_levels[-1].stride, model.num_feature_layers - 1))
    fitting = [level for level in levels if -(-side_px // level[0]) >= MIN_CELLS]
    return fitting[-1] if fitting else levels[0]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # Restore the mode of each module: a frozen part may differ from the whole.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
