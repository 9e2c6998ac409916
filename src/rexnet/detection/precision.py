"""Coordinates in float32 under autocast, whose bfloat16 cannot tell pixel 999 from 1001."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList


def keep_coordinates_float32(detector: nn.Module) -> None:
    """Makes anchors and what the heads put out float32, whatever the layers before compute in.

    torchvision's anchors and decoded boxes take the type of the feature maps and of the heads' outputs.
    """
    for name, module in detector.named_modules():
        if name.endswith("anchor_generator"):
            module.register_forward_pre_hook(_anchors_float32)
        elif name in ("head", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor"):
            module.register_forward_hook(_outputs_float32)


def _anchors_float32(_module: nn.Module, inputs: tuple[ImageList, list[Tensor]]) -> tuple[ImageList, list[Tensor]]:
    images, maps = inputs
    # An anchor generator reads size, type and device of a map; one number stands for all of its values.
    return images, [features.new_zeros((), dtype=torch.float32).expand(features.shape) for features in maps]


def _outputs_float32(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, dict):
        return {name: output.float() for name, output in outputs.items()}
    return tuple(_outputs_float32(_module, _inputs, output) for output in outputs)
