"""Inference form of a trained network: batch norms folded into convolutions, channels padded with zeros.

Vector units work on 8, 16 or 32 channels at a time; the padding is exact.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from operator import ge
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rexnet.models.config import BlockSpec, RexNetConfig
from rexnet.models.rexnet import RexNet

Network = TypeVar("Network", bound=nn.Module)


def fold(model: Network) -> Network:
    """Return a copy of `model` in eval mode with batch norms folded into the convolutions before them, equal up to
    rounding.

    A batch norm is folded if it follows a convolution in an nn.Sequential and has a running variance; others stay. An
    activation inside a folded batch norm keeps its place.
    """
    model = deepcopy(model).eval()
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        layers: list[tuple[str, Any]] = list(sequence.named_children())
        for (name, convolution), (behind, norm) in pairwise(layers):
            if isinstance(convolution, nn.Conv2d) and getattr(norm, "running_var", None) is not None:
                setattr(sequence, name, fuse_conv_bn_eval(convolution, norm))
                setattr(sequence, behind, nn.Sequential(*norm.children()))
    return model


def pad(model: RexNet, multiple: int) -> RexNet:
    """Return a copy whose stem and blocks have multiples of `multiple` channels, with the logits of `model`.

    Added channels stay zero, so that a shortcut still adds its input to the first channels. The outputs of the last
    block, the penultimate convolution and the head keep their sizes, as do layers whose padded size would not fit.
    Raise ValueError if an activation before a shortcut does not map zero to zero, such as SoftPlus.
    """
    if multiple < 1:
        raise ValueError(f"multiple is {multiple}; allowed: 1 or more")
    config = model.config
    if "softplus" in (config.activation, *(block.out_activation for block in config.blocks)):
        raise ValueError(
            "the activation softplus changes the added zero channels; allowed: activations that map zero to zero"
        )
    blocks = _pad_blocks(config, multiple)
    return _resize(model, replace(config, stem_channels=blocks[0].in_channels, blocks=tuple(blocks)))


def load_padded(model: RexNet, weights: Mapping[str, Tensor]) -> None:
    """Copy the weights of a padded copy (`pad`) into `model`. Raise ValueError for those of another network."""
    own = model.state_dict()
    if not own.keys() <= weights.keys() or any(not _covers(weights[key], value) for key, value in own.items()):
        raise ValueError(f"the weights are not those of {model.config.name}")
    model.load_state_dict({key: _corner(weights[key], like=value) for key, value in own.items()})


def _covers(padded: Tensor, own: Tensor) -> bool:
    return padded.ndim == own.ndim and all(map(ge, padded.shape, own.shape))


def _pad_blocks(config: RexNetConfig, multiple: int) -> list[BlockSpec]:
    """Pad the last block first: if an output keeps its size, the input of its shortcut must fit."""
    blocks: list[BlockSpec] = []
    out_channels = None if config.penultimate_channels else config.blocks[-1].out_channels
    for block in reversed(config.blocks):
        blocks.insert(0, _pad_block(block, multiple, out_channels))
        out_channels = blocks[0].in_channels
    return blocks


def _pad_block(block: BlockSpec, multiple: int, out_channels: int | None) -> BlockSpec:
    """Pad one block; `out_channels` is the input of the next block."""
    out_channels = out_channels or _round_up(block.out_channels, multiple)
    in_channels = _round_up(block.in_channels, multiple)
    if block.shortcut and in_channels > out_channels:
        in_channels = block.in_channels
    # Equal channels mean that there is no expansion convolution; rounding must not remove one.
    expanded_channels = _round_up(block.expanded_channels, multiple)
    if block.expanded_channels == block.in_channels:
        expanded_channels = in_channels
    elif expanded_channels == in_channels:
        expanded_channels += multiple
    return replace(
        block,
        in_channels=in_channels,
        expanded_channels=expanded_channels,
        out_channels=out_channels,
        se_channels=_round_up(block.se_channels, multiple),
    )


def _round_up(channels: int, multiple: int) -> int:
    return -(-channels // multiple) * multiple


def _resize(model: RexNet, config: RexNetConfig) -> RexNet:
    source = model.state_dict()
    some = next(model.parameters())
    other = RexNet(config).to(some.device, some.dtype).train(model.training)
    other.global_pool = model.global_pool
    target = {key: _corner(source[key], like=value) for key, value in other.state_dict().items()}
    # A variance of 0 would multiply rounding errors by the inverse of eps.
    for key, value in target.items():
        if key.endswith("running_var"):
            value[source[key].numel() :] = 1.0
    other.load_state_dict(target)
    return other


def _corner(source: Tensor, *, like: Tensor) -> Tensor:
    found = torch.zeros_like(like)
    shared = tuple(slice(min(have, want)) for have, want in zip(source.shape, like.shape, strict=True))
    found[shared] = source[shared]
    return found
