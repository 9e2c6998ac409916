"""Settings of a network as plain values, their files, and the feature levels that follow from them."""

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from rexnet.errors import WeightsError
from rexnet.models.blocks import BlockSpec, NormConfig, check_activation
from rexnet.models.weight_files import SUFFIXES, read_checkpoint_file

STEM_LAYERS = 3
FILE_SUFFIXES = (".json", *SUFFIXES)
"""File suffixes that `read_config` accepts."""


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
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: from 0 to below 1")
        for name, least in (("in_channels", 1), ("num_classes", 0), ("stem_channels", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
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
    """Source of a feature map of one stride."""

    stride: int
    channels: int
    """Channels of the narrow map, the output of the last block at this stride."""
    expanded_channels: int
    """Channels of the expanded map, the expansion in the block that leaves this stride, or the penultimate."""
    layer: int
    """Index in RexNet.features of the layer that returns the narrow map."""


def feature_levels(config: RexNetConfig) -> tuple[FeatureLevel, ...]:
    """Return the levels of a network, finest first; layer indices count the stem as three layers.

    A level ends before each block with a stride, or whose stride was replaced by dilation: a dilated network has as
    many levels as the strided one, the last ones of one stride.
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

    Raise ValueError for a file that cannot be read or holds no network.
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
        raise ValueError(f"{path!r} holds no network of rexnet: it has no {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path!r} holds no network of rexnet: {error}") from error
