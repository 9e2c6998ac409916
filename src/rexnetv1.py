"""Drop-in for clovaai/rexnet's rexnetv1.py: the official class name and arguments over this package's network."""

from dataclasses import replace

from torch import Tensor, nn

from rexnet.models.rexnet import RexNet
from rexnet.models.variants import FAMILIES, family_config


class ReXNetV1(RexNet):
    """The official network, with its state-dict keys; images (B, 3, H, W) -> logits (B, classes).

    Two deviations: one image gives (1, classes) where the original's squeeze() gives (classes,); and `bn_momentum`
    has no effect, because the original never handed it to its batch norms, which therefore run at PyTorch's 0.1.
    """

    def __init__(
        self,
        input_ch: int = 16,
        final_ch: int = 180,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        classes: int = 1000,
        use_se: bool = True,
        se_ratio: int = 12,
        dropout_ratio: float = 0.2,
        bn_momentum: float = 0.9,
    ):
        family = replace(
            FAMILIES["rexnet"],
            first_channels=input_ch,
            growth=final_ch,
            depth=depth_mult,
            se_ratio=se_ratio if use_se else 0,
        )
        super().__init__(
            family_config(family, width_mult, name="rexnetv1", num_classes=classes, drop_rate=dropout_ratio)
        )
        # The official `features` ends with the pooling, and users call it so; the forward pass here stops before it.
        self.features.append(nn.AdaptiveAvgPool2d(1))

    def extract_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1280 * width, H / 32, W / 32), before pooling."""
        return self.forward_features(x)
