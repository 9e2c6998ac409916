"""A network's narrow feature maps as a feature pyramid, for the two-stage detectors."""

from typing import final

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rexnet.detection.backbones import narrow_body
from rexnet.models.rexnet import RexNetConfig

STRIDES = (4, 8, 16, 32)
CHANNELS = 256


@final
class Pyramid(nn.Module):
    """(B, 3, H, W) -> {"0" to "3": (B, 256, H / stride, W / stride)} of strides 4 to 32, and "pool" of stride 64.

    On the outputs of the last block of each stride, without the penultimate convolution: so the parameters are those
    that the paper's Tables 7 and 9 state.
    """

    out_channels = CHANNELS

    def __init__(self, backbone: RexNetConfig | str):
        super().__init__()
        self.body = narrow_body(backbone, STRIDES)
        self.fpn = FeaturePyramidNetwork(self.body.channels, CHANNELS, extra_blocks=LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(index): features for index, features in enumerate(self.body(x))})
