from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rexnet.data.boxes.shapes import draw_shapes
from rexnet.data.config import DetectionAugmentConfig
from rexnet.detection import create_detector
from rexnet.detection.config import DetectorOptions, DetectTrainConfig
from rexnet.detection.train import train
from rexnet.training.config import OptimConfig, RunConfig, ScheduleConfig

SIZES_PX = {"faster_rcnn": (64, 128), "mask_rcnn": (64, 128), "ssdlite": (96, 96)}


@pytest.fixture
def tiny_detector():
    """tiny_detector(kind, seed=0, **options): on rexnet_010, for 3 classes and images of about 64 pixels."""

    def make(kind: str, seed: int = 0, **options) -> nn.Module:
        torch.manual_seed(seed)
        sizes_px = dict(zip(("min_size_px", "max_size_px"), SIZES_PX[kind], strict=True))
        model = create_detector(kind, **{"backbone": "rexnet_010", "num_classes": 3, **sizes_px, **options})
        if kind != "ssdlite":
            # Heads on fewer crops: they take nearly all of the time.
            heads = model.get_submodule("roi_heads")
            vars(heads)["detections_per_img"] = 10
            vars(heads)["fg_bg_sampler"].batch_size_per_image = 32
        return model

    return make


@pytest.fixture
def detection_batch():
    """detection_batch(2, boxes=1): images of different sizes with boxes, labels and masks; boxes=0: negative images."""

    def make(count: int, *, boxes: int = 2) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        generator = torch.Generator().manual_seed(count)
        images, targets = [], []
        for index in range(count):
            height, width = 60 + 8 * index, 90
            images.append(torch.rand(3, height, width, generator=generator))
            corners = torch.tensor([[8.0, 10.0, 40.0, 50.0], [30.0, 5.0, 80.0, 45.0]])[:boxes]
            masks = torch.zeros(boxes, height, width, dtype=torch.uint8)
            for mask, (x0, y0, x1, y1) in zip(masks, corners.int().tolist(), strict=True):
                mask[y0:y1, x0:x1] = 1
            targets.append({"boxes": corners, "labels": torch.tensor([1, 3])[:boxes], "masks": masks})
        return images, targets

    return make


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    draw_shapes(folder, images=8, seed=0, size_px=64)
    return folder


@pytest.fixture
def config(shapes, tmp_path) -> DetectTrainConfig:
    """A whole run of the smallest detector in seconds, with everything random switched on."""
    return DetectTrainConfig(
        data=str(shapes),
        network=DetectorOptions(detector="ssdlite", model="rexnet_010", min_size=64),
        augment=DetectionAugmentConfig(iou_crop=True),
        optim=OptimConfig(lr=0.01, lr_batch=0, clip_grad=10.0, ema_decay=0.9),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5),
        run=RunConfig(batch_size=3, seed=3, device="cpu", workers=0, output=str(tmp_path / "run")),
    )


@pytest.fixture(scope="session")
def trained(shapes, tmp_path_factory) -> Path:
    """The run folder of a Mask R-CNN, hardly trained; nobody writes into it."""
    output = tmp_path_factory.mktemp("detector") / "run"
    network = DetectorOptions(detector="mask_rcnn", model="rexnet_010", min_size=64, max_size=64, proposals=16)
    run = RunConfig(batch_size=4, device="cpu", output=str(output))
    train(DetectTrainConfig(data=str(shapes), network=network, schedule=ScheduleConfig(epochs=1), run=run))
    return output
