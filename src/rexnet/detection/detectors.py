"""Faster R-CNN, Mask R-CNN and SSDLite: torchvision's detectors, built from a config of plain values."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN

from rexnet.detection.backbones import Pyramid, backbone_config, load_body
from rexnet.detection.config import Kind
from rexnet.detection.norms import accept_single_values
from rexnet.detection.roi_heads import learn_masks_where_given, use_fast_roi_align
from rexnet.detection.rpn import (
    keep_coordinates_float32,
    match_in_parts,
    rank_proposals_by_logits,
    use_sparse_gradients,
)
from rexnet.detection.ssdlite import make_ssdlite
from rexnet.models.config import RexNetConfig
from rexnet.models.weights import Source

SIZES_PX = {"faster_rcnn": (800, 1333), "mask_rcnn": (800, 1333), "ssdlite": (320, 320)}
"""Shorter side, and maximum of the longer side: torchvision's for detectors with a pyramid, the paper's for SSDLite."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Plain values that define a detector's layers and shapes."""

    kind: Kind
    backbone: RexNetConfig | str
    """Config of a RexNet, or the name of a timm network: "timm/resnet50"."""
    num_classes: int
    """Number of object classes, without the background: 80 for COCO."""
    min_size_px: int
    """Size to which an image's shorter side is resized."""
    max_size_px: int
    """Maximum of the longer side. SSDLite resizes images to squares, so both sizes are the same."""
    proposals: int = 1000
    """Proposals per image for the second stage; training ranks twice as many and samples about half as many, by default
    512 of 2000. SSDLite has no second stage."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}; allowed: {', '.join(get_args(Kind))}")
        if not isinstance(self.num_classes, int) or self.num_classes < 1:
            raise ValueError(
                f"num_classes is {self.num_classes!r}; allowed: whole numbers from 1, not counting the background"
            )
        sizes = (self.min_size_px, self.max_size_px)
        if not all(isinstance(size_px, int) for size_px in sizes) or not 32 <= self.min_size_px <= self.max_size_px:
            raise ValueError(
                f"the sizes (--min-size, --max-size) are {sizes[0]} and {sizes[1]}; allowed: ascending integers from 32"
            )
        if not isinstance(self.proposals, int) or self.proposals < 8:
            raise ValueError(f"proposals is {self.proposals!r}; allowed: whole numbers from 8")
        if self.kind == "ssdlite" and sizes[0] != sizes[1]:
            raise ValueError(
                f"the sizes (--min-size, --max-size) are {sizes[0]} and {sizes[1]}; ssdlite needs equal ones"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DetectorConfig":
        backbone = values["backbone"]
        return cls(
            **{**values, "backbone": backbone if isinstance(backbone, str) else RexNetConfig.from_dict(backbone)}
        )


def create_detector(
    kind: Kind,
    *,
    backbone: str | RexNetConfig = "rexnet_100",
    num_classes: int,
    weights: Source | None = None,
    **overrides: int,
) -> nn.Module:
    """Return torchvision's detector of a kind on a ReXNet backbone, in training mode; nothing is frozen.

    In training, `model(images, targets)` returns a dict of losses; in evaluation, `model(images)` returns a list of
    dicts with boxes (N, 4) as x0 y0 x1 y1 in pixels of the input image, labels 1 to num_classes, scores, and for Mask
    R-CNN masks (N, 1, H, W) from 0 to 1. Images are RGB (3, H, W) from 0 to 1; the model normalises and resizes them.
    `backbone`: a name for `rexnet.create_model`, a config, or "timm/NAME". `weights`: the backbone's, as for
    `rexnet.create_model`. `overrides`: further fields of DetectorConfig. Raise ValueError for values that are not
    allowed.
    """
    if kind not in SIZES_PX:
        raise ValueError(f"kind is {kind!r}; allowed: {', '.join(SIZES_PX)}")
    sizes_px = dict(zip(("min_size_px", "max_size_px"), SIZES_PX[kind], strict=True))
    network = backbone_config(backbone) if isinstance(backbone, str) else backbone
    config = DetectorConfig(kind=kind, backbone=network, num_classes=num_classes, **{**sizes_px, **overrides})
    model = build_detector(config)
    if weights is not None:
        load_body(model.get_submodule("backbone.body"), network, weights)
    return model


def build_detector(config: DetectorConfig) -> nn.Module:
    """Return the detector of a config, with random weights and the attributes `config` and `kind`."""
    if config.kind == "ssdlite":
        model = make_ssdlite(config.backbone, num_classes=config.num_classes + 1, size_px=config.min_size_px)
    else:
        made = FasterRCNN if config.kind == "faster_rcnn" else MaskRCNN
        model = made(
            Pyramid(config.backbone),
            num_classes=config.num_classes + 1,
            min_size=config.min_size_px,
            max_size=config.max_size_px,
            rpn_post_nms_top_n_train=2 * config.proposals,
            rpn_post_nms_top_n_test=config.proposals,
            box_batch_size_per_image=512 * config.proposals // 1000,
        )
    model.register_forward_pre_hook(partial(_check_labels, config.num_classes), with_kwargs=True)
    accept_single_values(model)
    keep_coordinates_float32(model)
    match_in_parts(model)
    use_sparse_gradients(model)
    use_fast_roi_align(model)
    rank_proposals_by_logits(model)
    if config.kind == "mask_rcnn":
        learn_masks_where_given(model)
    vars(model).update(config=config, kind=config.kind)
    return model


def _check_labels(num_classes: int, model: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Raise ValueError for labels that are not classes: torchvision would learn objects of label 0 as background."""
    targets = options.get("targets", arguments[1] if len(arguments) > 1 else None)
    labels = torch.cat([target["labels"] for target in targets]) if model.training and targets else torch.empty(0)
    if labels.numel():
        lowest, highest = torch.stack(labels.aminmax()).tolist()
        if lowest < 1 or highest > num_classes:
            raise ValueError(
                f"the labels of the targets are {lowest} to {highest}; allowed: 1 to {num_classes}, since 0 is the "
                "background"
            )
