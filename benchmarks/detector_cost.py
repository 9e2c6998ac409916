"""Parameters and MACs of every detector that the paper's tables and the official README list, beside what they state.

The two-stage rows come out for an image of 800 x 1280 pixels with 1000 proposals and without the mask head, as
mmdetection counts; they do not come out at 1200 x 800, which the paper states. Networks of others come out in
the form that the note of their row names.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import timm
import torch
from timm.models import create_feature_extractor
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import records
from rexnet.detection.backbones import PYRAMID_CHANNELS, TimmBody
from rexnet.detection.config import Kind
from rexnet.detection.detectors import create_detector

CLASSES = 80
IMAGE_PX = {"faster_rcnn": (800, 1280), "mask_rcnn": (800, 1280), "ssdlite": (320, 320)}
"""Height and width that fit the published figures."""


PROPOSALS = 1000


class DetectorCost(NamedTuple):
    parameters: int
    macs: int
    """Multiply-accumulates of convolutions and linear layers, for one image."""


def measure_detector_cost(model: nn.Module, *, height_px: int, width_px: int) -> DetectorCost:
    """Return the cost for one image that enters the backbone at this size, by shapes only.

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


def stride_in_first_convolution(model: Any, backbone: str) -> None:
    """As in Caffe's ResNets: the first 1x1 of a stage halves the size, where PyTorch's 3x3 does."""
    network = model.get_submodule("backbone.body.network")
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


def with_last_convolution(model: Any, backbone: str) -> None:
    """The coarsest map of an EfficientNet-like network of timm's after its last convolution, before pooling."""
    network: Any = timm.create_model(backbone.removeprefix("timm/"))
    modules = [str(info["module"]) for info in network.feature_info[1:-1]]
    channels = [*(info["num_chs"] for info in network.feature_info[1:-1]), network.num_features]
    extractor = create_feature_extractor(network, {**{name: name for name in modules}, "bn2": "32"})
    model.backbone.body = TimmBody(extractor, channels)
    model.backbone.fpn = FeaturePyramidNetwork(channels, PYRAMID_CHANNELS, extra_blocks=LastLevelMaxPool())


class Published(NamedTuple):
    """A row of the paper's Tables 6, 7 and 9 or of the official README."""

    kind: Kind
    backbone: str
    parameters_m: float
    macs_g: float
    note: str = ""
    """The form of the network that fits, or what is known of a deviation of more than 0.1 M or 2 %."""
    form: Callable[[Any, str], None] | None = None
    """form(model, backbone) gives the model that form."""
    image_px: tuple[int, int] | None = None
    """Height and width, where others than IMAGE_PX fit."""


CAFFE = "with Caffe's strides, in the first 1x1 of a stage"
LAST_CONVOLUTION = "with its last convolution, of 1984 channels, and at 1200 x 800"
ROWS = [
    Published("ssdlite", "timm/efficientnet_b0", 6.2, 0.97),
    Published("ssdlite", "rexnet_090", 5.0, 0.88),
    Published("ssdlite", "rexnet_100", 5.7, 1.01),
    Published("ssdlite", "timm/efficientnet_b1", 8.7, 1.35),
    Published("ssdlite", "timm/efficientnet_b2", 10.0, 1.55),
    Published("ssdlite", "rexnet_130", 8.4, 1.60),
    Published("faster_rcnn", "timm/fbnetc_100", 21.4, 119.0, LAST_CONVOLUTION, with_last_convolution, (800, 1200)),
    Published("faster_rcnn", "timm/efficientnet_b0", 21.0, 123.0),
    Published("faster_rcnn", "rexnet_090", 20.1, 123.0),
    Published("faster_rcnn", "rexnet_100", 20.7, 124.1),
    Published("faster_rcnn", "timm/resnet50", 41.8, 202.2, CAFFE, stride_in_first_convolution),
    Published("faster_rcnn", "timm/resnext101_32x4d", 60.4, 272.4, CAFFE, stride_in_first_convolution),
    Published("faster_rcnn", "rexnet_220", 33.0, 153.8),
    Published("mask_rcnn", "timm/efficientnet_b0", 23.7, 123.0),
    Published("mask_rcnn", "rexnet_090", 22.8, 123.0),
    Published("mask_rcnn", "rexnet_100", 23.3, 124.1),
    Published("mask_rcnn", "timm/resnet50", 44.2, 206.5, "44.18 M without the stem and first stage, often frozen"),
    Published("mask_rcnn", "rexnet_220", 35.6, 153.8),
]


def measure(row: Published) -> DetectorCost:
    """Ours, of the same kind and backbone."""
    height_px, width_px = row.image_px or IMAGE_PX[row.kind]
    with torch.device("meta"):
        model = create_detector(row.kind, backbone=row.backbone, num_classes=CLASSES)
        if row.form:
            row.form(model, row.backbone)
    return measure_detector_cost(model, height_px=height_px, width_px=width_px)


def main() -> None:
    records.start()
    provenance = records.provenance("cpu")
    for row in ROWS:
        cost = measure(row)
        published = {name: getattr(row, name) for name in ("kind", "backbone", "parameters_m", "macs_g", "note")}
        figures = {
            "image_px": row.image_px or IMAGE_PX[row.kind],
            "parameters": cost.parameters,
            "macs": cost.macs,
            "parameters_difference_m": round(cost.parameters / 1e6 - row.parameters_m, 3),
            "macs_difference_percent": round(100 * (cost.macs / 1e9 / row.macs_g - 1), 2),
        }
        records.append("detector_cost", {**published, **figures, **provenance})


if __name__ == "__main__":
    main()
