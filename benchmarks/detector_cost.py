"""Parameters and MACs of every detector that the paper's tables and the official README list, beside what they state.

The two-stage rows come out for an image of 800 x 1280 pixels with 1000 proposals and without the mask head, as
mmdetection counts; they do not come out at 1200 x 800, which the paper states.
"""

from typing import NamedTuple

import torch

import records
from rexnet.detection.cost import DetectorCost, measure_detector_cost
from rexnet.detection.detectors import Kind, create_detector

CLASSES = 80
IMAGE_PX = {"faster_rcnn": (800, 1280), "mask_rcnn": (800, 1280), "ssdlite": (320, 320)}
"""Height and width that fit the published figures."""


class Published(NamedTuple):
    """A row of the paper's Tables 6, 7 and 9 or of the official README."""

    kind: Kind
    backbone: str
    parameters_m: float
    macs_g: float
    note: str = ""
    """What is known of a deviation of more than 0.1 M or 2 %."""


ROWS = [
    Published("ssdlite", "timm/efficientnet_b0", 6.2, 0.97),
    Published("ssdlite", "rexnet_090", 5.0, 0.88),
    Published("ssdlite", "rexnet_100", 5.7, 1.01),
    Published("ssdlite", "timm/efficientnet_b1", 8.7, 1.35),
    Published("ssdlite", "timm/efficientnet_b2", 10.0, 1.55),
    Published("ssdlite", "rexnet_130", 8.4, 1.60),
    Published("faster_rcnn", "timm/fbnetc_100", 21.4, 119.0, "not timm's FBNet-C"),
    Published("faster_rcnn", "timm/efficientnet_b0", 21.0, 123.0),
    Published("faster_rcnn", "rexnet_090", 20.1, 123.0),
    Published("faster_rcnn", "rexnet_100", 20.7, 124.1),
    Published("faster_rcnn", "timm/resnet50", 41.8, 202.2, "201.6 G with Caffe's strides, in the first 1x1 of a stage"),
    Published("faster_rcnn", "timm/resnext101_32x4d", 60.4, 272.4, "not explained"),
    Published("faster_rcnn", "rexnet_220", 33.0, 153.8),
    Published("mask_rcnn", "timm/efficientnet_b0", 23.7, 123.0),
    Published("mask_rcnn", "rexnet_090", 22.8, 123.0),
    Published("mask_rcnn", "rexnet_100", 23.3, 124.1),
    Published("mask_rcnn", "timm/resnet50", 44.2, 206.5, "44.18 M without the stem and first stage, often frozen"),
    Published("mask_rcnn", "rexnet_220", 35.6, 153.8),
]


def measure(row: Published) -> DetectorCost:
    """Ours, of the same kind and backbone."""
    height_px, width_px = IMAGE_PX[row.kind]
    with torch.device("meta"):
        model = create_detector(row.kind, backbone=row.backbone, num_classes=CLASSES)
    return measure_detector_cost(model, height_px=height_px, width_px=width_px)


def main() -> None:
    provenance = records.provenance("cpu")
    for row in ROWS:
        cost = measure(row)
        figures = {
            "image_px": IMAGE_PX[row.kind],
            "parameters": cost.parameters,
            "macs": cost.macs,
            "parameters_difference_m": round(cost.parameters / 1e6 - row.parameters_m, 3),
            "macs_difference_percent": round(100 * (cost.macs / 1e9 / row.macs_g - 1), 2),
        }
        records.append("detector_cost", {**row._asdict(), **figures, **provenance})


if __name__ == "__main__":
    main()
