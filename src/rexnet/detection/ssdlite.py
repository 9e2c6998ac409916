"""SSDLite on a network's expanded feature maps and four additional maps."""

from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation

from rexnet.detection.backbones import expanded_body
from rexnet.models.config import RexNetConfig

EXTRA_CHANNELS = (512, 256, 256, 128)
# torchvision's value, from TensorFlow's recipe: statistics of 1x1 maps are noisy.
_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)


@final
class SsdFeatures(nn.Module):
    """Backbone of SSDLite: (B, 3, H, W) -> six maps with sides of 20, 10, 5, 3, 2 and 1 cells at 320 pixels.

    The first is the expansion in the first block of stride 32, the second the output of the penultimate convolution.
    The paper does not specify the maps; with these, the sizes match its Table 6.
    """

    def __init__(self, backbone: RexNetConfig | str):
        super().__init__()
        self.body = expanded_body(backbone)
        self.out_channels = [*self.body.channels, *EXTRA_CHANNELS]
        inputs = self.out_channels[1:-1]
        self.extra = nn.ModuleList(_extra_block(*sizes) for sizes in zip(inputs, EXTRA_CHANNELS, strict=True))
        for module in self.extra.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.body(x)
        for block in self.extra:
            maps.append(block(maps[-1]))
        return {str(index): features for index, features in enumerate(maps)}


def _extra_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a block that halves the size: 1x1 to half the channels, depthwise 3x3 of stride 2, 1x1. Source:
    MobileNetV2, section 6.2."""
    hidden = out_channels // 2
    layer = partial(Conv2dNormActivation, norm_layer=_NORM, activation_layer=nn.ReLU6)
    return nn.Sequential(
        layer(in_channels, hidden, kernel_size=1),
        layer(hidden, hidden, kernel_size=3, stride=2, groups=hidden),
        layer(hidden, out_channels, kernel_size=1),
    )


@final
class SsdAnchors(DefaultBoxGenerator):
    """Default boxes with aspect ratios 1 (twice), 2, 1/2, 3 and 1/3 per cell; on the first map, only 1, 2 and 1/2."""

    def __init__(self) -> None:
        super().__init__([[2], *[[2, 3]] * (len(EXTRA_CHANNELS) + 1)], min_ratio=0.2, max_ratio=0.95)
        self._wh_pairs[0] = self._wh_pairs[0][[0, 2, 3]]

    def num_anchors_per_location(self) -> list[int]:
        return [len(pairs) for pairs in self._wh_pairs]


def make_ssdlite(backbone: RexNetConfig | str, *, num_classes: int, size_px: int, **options: Any) -> SSD:
    """Return torchvision's SSD with depthwise separable heads; `num_classes` includes the background, `options` are
    SSD's."""
    features, anchors = SsdFeatures(backbone), SsdAnchors()
    head = SSDLiteHead(features.out_channels, anchors.num_anchors_per_location(), num_classes, _NORM)
    # Settings of torchvision's SSDLite, chosen for COCO's average precision.
    defaults = {"score_thresh": 0.001, "nms_thresh": 0.55, "detections_per_img": 300, "topk_candidates": 300}
    model = SSD(features, anchors, (size_px, size_px), num_classes, head=head, **{**defaults, **options})
    # A partial of a bound method is copied with the detector; a closure would keep using this one.
    vars(model)["compute_loss"] = partial(_loss_of_all_images, model.compute_loss)
    return model


def _loss_of_all_images(
    plain: Callable[..., dict[str, Tensor]],
    targets: list[dict[str, Tensor]],
    head_outputs: dict[str, Tensor],
    anchors: list[Tensor],
    matches: list[Tensor],
) -> dict[str, Tensor]:
    """Return torchvision's losses, including, for each image without objects, the loss of its hardest anchors.

    SSD takes three hard negatives per positive anchor, so an image without objects would have no loss; here it counts
    as if it had one positive anchor.
    """
    losses = plain(targets, head_outputs, anchors, matches)
    empty = [index for index, target in enumerate(targets) if not len(target["boxes"])]
    if not empty:
        return losses
    ratio = int(plain.__self__.neg_to_pos_ratio)  # pyright: ignore[reportFunctionMemberAccess]
    logits = head_outputs["cls_logits"][empty]
    background = nn.functional.log_softmax(logits, dim=2)[..., 0].neg()
    hardest = background.topk(min(ratio, background.shape[1]), dim=1).values
    positives = torch.stack([(match >= 0).sum() for match in matches]).sum().clamp(min=len(empty))
    return {**losses, "classification": losses["classification"] + hardest.sum() / positives}
