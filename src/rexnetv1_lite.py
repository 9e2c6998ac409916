"""Drop-in for clovaai/rexnet's rexnetv1_lite.py: the official class name and arguments over this package's network."""

from dataclasses import replace

from torch import Tensor

from rexnet.models.config import NormConfig
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import FAMILIES, family_config


class ReXNetV1_lite(RexNet):
    """The official network, with its state-dict keys; images (B, 3, H, W) -> logits (B, classes).

    One deviation: one image gives (1, classes) where the original's squeeze() gives (classes,).
    """

    def __init__(
        self,
        fix_head_stem: bool = False,
        divisible_value: int = 8,
        input_ch: int = 16,
        final_ch: int = 164,
        multiplier: float = 1.0,
        classes: int = 1000,
        dropout_ratio: float = 0.2,
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-5,
        kernel_conf: str = "333333",
    ):
        family = replace(
            FAMILIES["rexnet_lite"],
            first_channels=input_ch,
            growth=final_ch,
            divisor=divisible_value or 1,
            wide_divisor=divisible_value or 1,
            fixed_stem_and_penultimate=fix_head_stem,
            kernel_sizes=tuple(int(size) for size in kernel_conf),
        )
        super().__init__(
            family_config(
                family,
                multiplier,
                name="rexnetv1_lite",
                num_classes=classes,
                drop_rate=dropout_ratio,
                norm=NormConfig(momentum=bn_momentum, eps=bn_eps),
            )
        )

    def extract_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, penultimate channels, H / 32, W / 32), before pooling."""
        return self.forward_features(x)
