"""What a detector costs, counted as the paper's tables count."""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PROPOSALS = 1000


class DetectorCost(NamedTuple):
    parameters: int
    macs: int
    """Multiply-accumulates of convolutions and linear layers, for one image."""


def measure_detector_cost(model: nn.Module, *, height_px: int, width_px: int) -> DetectorCost:
    """Cost for one image that enters the backbone at this size, by shapes only.

    The two-stage detectors count backbone, pyramid, proposal head and box head on 1000 proposals; the mask head does
    not count, because its work depends on what is found. Source: mmdetection's get_flops, whose default image is
    800 x 1280; the paper states 1200 x 800, where its own figures do not come out.
    """
    meta_model = deepcopy(model).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), torch.device("meta"):
        maps = list(meta_model.get_submodule("backbone")(torch.empty(1, 3, height_px, width_px)).values())
        if "rpn" in dict(meta_model.named_children()):
            meta_model.get_submodule("rpn.head")(maps)
            crops = torch.empty(PROPOSALS, maps[0].shape[1], 7, 7)
            heads = meta_model.get_submodule("roi_heads")
            heads.get_submodule("box_predictor")(heads.get_submodule("box_head")(crops))
        else:
            meta_model.get_submodule("head")(maps)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return DetectorCost(parameters, counter.get_total_flops() // 2)
