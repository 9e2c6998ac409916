"""Backbones of detectors: feature maps by stride from ReXNets or timm networks, and a feature pyramid on top of
them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rexnet.errors import WeightsError
from rexnet.models.config import RexNetConfig, feature_levels
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import model_config
from rexnet.models.weights import Source, extract_state_dict, load_weights, read_checkpoint_file
from rexnet.references import BACKBONES, resolve
from rexnet.timm_models import check_timm_name, create_timm

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
PYRAMID_CHANNELS = 256


@final
class RexNetBody(nn.Module):
    """RexNet without its classifier: (B, 3, H, W) -> the maps of `strides`, finest first.

    Expanded maps include the output of the penultimate convolution; otherwise the convolution is removed. State-dict
    keys are the official ones with the prefix "network.".
    """

    def __init__(self, config: RexNetConfig, *, strides: Sequence[int], expanded: bool = False):
        super().__init__()
        levels = {level.stride: level for level in feature_levels(config)}
        if not set(strides) <= set(levels) or max(levels) != strides[-1]:
            raise ValueError(
                f"{config.name} has feature maps of strides {', '.join(map(str, levels))}; a detector needs "
                f"{', '.join(map(str, strides))}, and {strides[-1]} as the last: stem_stride 2 and output_stride 32"
            )
        if config.in_channels != 3:
            raise ValueError(f"{config.name} takes {config.in_channels} channels; detectors need 3, for RGB images")
        config = replace(config, head_hidden_channels=0, num_classes=0)
        self.network = RexNet(config if expanded else replace(config, penultimate_channels=0))
        self.strides, self.expanded = tuple(strides), expanded
        chosen = [levels[stride] for stride in strides]
        self.channels = [level.expanded_channels if expanded else level.channels for level in chosen]

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.network.feature_maps(x, self.strides, expanded=self.expanded).values())


@final
class TimmBody(nn.Module):
    """A timm network with the interface of RexNetBody."""

    def __init__(self, network: nn.Module, channels: Sequence[int]):
        super().__init__()
        self.network, self.channels = network, list(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.network(x)
        return list(maps.values() if isinstance(maps, dict) else maps)


Body = RexNetBody | TimmBody


def backbone_config(name: str) -> RexNetConfig | str:
    """Return the config of a RexNet given by name or file; return timm/NAME unchanged."""
    reference = resolve(name, allowed=BACKBONES)
    if reference.kind == "timm":
        check_timm_name(reference.name)
        return name
    return model_config(name if reference.kind == "network" else str(reference.file))


def narrow_body(backbone: RexNetConfig | str, strides: Sequence[int]) -> Body:
    """Return a body whose maps are the outputs of the last block of each stride."""
    if isinstance(backbone, RexNetConfig):
        return RexNetBody(backbone, strides=strides)
    with torch.device("meta"):
        have = _make_timm(backbone, features_only=True).feature_info.reduction()
    if not set(strides) <= set(have):
        raise ValueError(f"{backbone} has feature maps of strides {have}; a detector needs {list(strides)}")
    network = _make_timm(backbone, features_only=True, out_indices=[have.index(stride) for stride in strides])
    return TimmBody(network, network.feature_info.channels())


def expanded_body(backbone: RexNetConfig | str) -> Body:
    """Return the body of SSDLite, with two maps: the expansion in the first block of stride 32, itself still at stride
    16, and the output of the penultimate convolution."""
    if isinstance(backbone, RexNetConfig):
        return RexNetBody(backbone, strides=(16, 32), expanded=True)
    from timm.models import create_feature_extractor
    from timm.models.efficientnet import EfficientNet

    network = _make_timm(backbone)
    if not isinstance(network, EfficientNet):
        raise ValueError(f"backbone is {backbone!r}; allowed for ssdlite: ReXNets and timm's EfficientNets")
    before = next(info["module"] for info in network.feature_info if info["reduction"] == 16)
    first = f"blocks.{int(before.rpartition('.')[2]) + 1}.0"
    layers = [network.get_submodule(name) for name in (f"{first}.conv_pw", "conv_head")]
    extractor = create_feature_extractor(network, {f"{first}.bn1": "16", "bn2": "32"})
    return TimmBody(extractor, [layer.get_parameter("weight").shape[0] for layer in layers])


def _make_timm(backbone: str, **options: Any) -> Any:
    try:
        return create_timm(resolve(backbone, allowed=("timm",)).name, **options)
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"backbone is {backbone!r}, which cannot output feature maps ({error})") from error


def load_body(body: nn.Module, backbone: RexNetConfig | str, weights: Source) -> None:
    """Copy the body's part of a whole network's weights, and log "N of M backbone tensors loaded".

    `weights` as for `rexnet.create_model`; for a timm network, the path of a file. Raise WeightsError, with the body
    unchanged, for the weights of another network.
    """
    if isinstance(backbone, RexNetConfig):
        network = RexNet(backbone)
        report = load_weights(network, weights, classifier="keep")
        found, source = network.state_dict(), report.source
        found = {key: value for key, value in found.items() if key not in report.not_loaded}
    else:
        given = isinstance(weights, Mapping)
        source = "the given state dict" if given else repr(str(weights))
        found = extract_state_dict(weights if given else read_checkpoint_file(weights), source=source)
    own_network = body.get_submodule("network")
    own = own_network.state_dict()
    taken = {key: found[key] for key in own if key in found and found[key].shape == own[key].shape}
    missing = [key for key in own if key not in taken and not key.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"{source} has no {missing[0]} of the backbone's shape; pass a file that matches the backbone"
        )
    own_network.load_state_dict({**own, **taken})
    logger.info("%d of %d backbone tensors loaded from %s", len(taken), len(own), source)


@final
class Pyramid(nn.Module):
    """Feature pyramid: (B, 3, H, W) -> {"0" to "3": (B, 256, H / stride, W / stride)} of strides 4 to 32, "pool" of 64.

    It reads the output of the last block of each stride, without the penultimate convolution, so that the number of
    parameters equals the paper's in Tables 7 and 9.
    """

    out_channels = PYRAMID_CHANNELS

    def __init__(self, backbone: RexNetConfig | str):
        super().__init__()
        self.body = narrow_body(backbone, STRIDES)
        self.fpn = FeaturePyramidNetwork(self.body.channels, PYRAMID_CHANNELS, extra_blocks=LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(index): features for index, features in enumerate(self.body(x))})
