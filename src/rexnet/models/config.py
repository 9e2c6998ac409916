"""Settings of a network as plain values, their files, and the feature levels that follow from them. It does not import
torch, so that a MODEL that does not exist is rejected at once."""

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import prod
from numbers import Real
from pathlib import Path
from typing import Any

from rexnet.errors import WeightsError
from rexnet.models.weight_files import SUFFIXES, read_checkpoint_file
from rexnet.text import reason_of

STEM_LAYERS = 3
FILE_SUFFIXES = (".json", *SUFFIXES)
"""File suffixes that `read_config` accepts."""
ACTIVATION_NAMES = ("identity", "relu", "relu6", "leaky_relu", "elu", "softplus", "hardswish", "silu")


def check_activation(name: str) -> None:
    """Raise ValueError unless `name` is one of ACTIVATION_NAMES."""
    if name not in ACTIVATION_NAMES:
        raise ValueError(f"activation is {name!r}; allowed: {', '.join(ACTIVATION_NAMES)}")


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """Arguments of torch.nn.BatchNorm2d."""

    momentum: float = 0.1
    eps: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """One linear bottleneck as plain numbers. Variants, search and study describe a network as a list of these."""

    in_channels: int
    expanded_channels: int
    """Channels of the depthwise convolution; equal to in_channels means no expansion convolution."""
    out_channels: int
    stride: int = 1
    dilation: int = 1
    kernel_size: int = 3
    se_channels: int = 0
    """Hidden channels of squeeze-excitation; 0 means none."""
    shortcut: bool = False
    """Add the input to the first in_channels output channels."""
    expand_activation: str = "silu"
    depthwise_activation: str = "relu6"
    out_activation: str = "identity"

    def __post_init__(self) -> None:
        for name in ("in_channels", "expanded_channels", "out_channels", "stride", "dilation"):
            if getattr(self, name) < 1:
                raise ValueError(f"BlockSpec.{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"BlockSpec.kernel_size is {self.kernel_size}; allowed: odd numbers")
        if self.se_channels < 0:
            raise ValueError(f"BlockSpec.se_channels is {self.se_channels}; allowed: 0 (none) or more")
        if self.shortcut and (self.stride != 1 or self.in_channels > self.out_channels):
            raise ValueError(
                f"BlockSpec.shortcut needs stride 1 and in_channels <= out_channels, got stride {self.stride}, "
                f"{self.in_channels} -> {self.out_channels} channels"
            )
        for name in (self.expand_activation, self.depthwise_activation, self.out_activation):
            check_activation(name)


@dataclass(frozen=True, kw_only=True)
class RexNetConfig:
    """Plain values that define a network's graph and shapes."""

    name: str
    blocks: tuple[BlockSpec, ...]
    stem_channels: int = 32
    stem_stride: int = 2
    activation: str = "silu"
    """Activation after the stem and after the penultimate convolution."""
    penultimate_channels: int = 1280
    """Channels of the 1x1 convolution before pooling; 0 means none."""
    head_hidden_channels: int = 0
    """Channels of the 1x1 convolution between pooling and classifier (lite: 1024); 0 means none."""
    in_channels: int = 3
    num_classes: int = 1000
    """Classes; 0 means no classifier: the network returns the classifier's input."""
    drop_rate: float = 0.2
    drop_path_rate: float = 0.0
    """Rate of the last block; grows linearly from 0 at the first."""
    norm: NormConfig = field(default_factory=NormConfig)

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("RexNetConfig.blocks is empty; allowed: one BlockSpec or more")
        for name in ("drop_rate", "drop_path_rate"):
            rate = getattr(self, name)
            if not isinstance(rate, Real) or not 0.0 <= float(rate) < 1.0:
                raise ValueError(f"{name} is {rate!r}; allowed: from 0 to below 1")
        for name, least in (("in_channels", 1), ("num_classes", 0), ("stem_channels", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; allowed: whole numbers from {least}")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"stem_stride is {self.stem_stride!r}; allowed: 1, 2")
        check_activation(self.activation)
        channels = self.stem_channels
        for index, block in enumerate(self.blocks):
            if block.in_channels != channels:
                raise ValueError(f"block {index} takes {block.in_channels} channels but gets {channels}")
            channels = block.out_channels

    @property
    def output_stride(self) -> int:
        return self.stem_stride * prod(block.stride for block in self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RexNetConfig":
        blocks = tuple(BlockSpec(**block) for block in values["blocks"])
        return cls(**{**values, "blocks": blocks, "norm": NormConfig(**values["norm"])})


@dataclass(frozen=True, kw_only=True)
class FeatureLevel:
    """Source of the feature maps of one stride."""

    stride: int
    channels: int
    """Channels of the narrow map, the output of the last block at this stride."""
    expanded_channels: int
    """Channels of the expanded map: the expansion in the block that leaves this stride, or the penultimate
    convolution."""
    layer: int
    """Index in RexNet.features of the layer that returns the narrow map."""


def feature_levels(config: RexNetConfig) -> tuple[FeatureLevel, ...]:
    """Return the levels of a network, finest first; layer indices count the stem as three layers.

    A level ends before each block with a stride, and before each block whose stride was replaced by dilation: a dilated
    network has as many levels as the strided one, and the last ones share a stride.
    """
    levels = []
    stride, channels = config.stem_stride, config.stem_channels
    for index, (block, following) in enumerate(pairwise((*config.blocks, config.blocks[-1]))):
        if block.stride > 1 or following.dilation > block.dilation:
            layer = STEM_LAYERS - 1 + index
            levels.append(
                FeatureLevel(stride=stride, channels=channels, expanded_channels=block.expanded_channels, layer=layer)
            )
        stride, channels = stride * block.stride, block.out_channels
    last_layer = STEM_LAYERS - 1 + len(config.blocks)
    expanded_channels = config.penultimate_channels or channels
    levels.append(FeatureLevel(stride=stride, channels=channels, expanded_channels=expanded_channels, layer=last_layer))
    return tuple(levels)


def config_text(config: RexNetConfig) -> str:
    """Return the content of a file that `read_config` reads."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def read_config(path: str) -> RexNetConfig:
    """Read a config from its JSON file or from a checkpoint of this package.

    Raise ValueError for a file that cannot be read or contains no network.
    """
    try:
        if path.endswith(".json"):
            return RexNetConfig.from_dict(json.loads(Path(path).read_bytes()))
        return RexNetConfig.from_dict(read_checkpoint_file(path)["model"])
    except WeightsError:
        raise
    except OSError as error:
        raise ValueError(f"network {path!r} cannot be read: {error.strerror or error}") from error
    except KeyError as error:
        raise ValueError(f"{path!r} contains no rexnet network: it has no {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path!r} contains no rexnet network: {reason_of(error)}") from error
