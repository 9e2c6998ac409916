"""Random networks: the blocks whose output is measured, and their random draws.

A block is any object with the two attributes of `Block`; `module:factory` names a function that makes one. Maps are
(networks, channels, samples, height, width), a batch of networks of equal size; weights are (networks, out, in, k, k).
"""

import importlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast, final

import numpy as np
import torch
from torch import Tensor, nn

from rexnet.models import blocks
from rexnet.study.protocol import Block, Function, Placement, Protocol, Size


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve each network's maps with stride 1 and zero padding, depthwise if a weight has one value per channel and
    tap."""
    networks, channels, _, height, width = x.shape
    out_channels, kernel_size = weight.shape[1], weight.shape[-1]
    depthwise = weight.shape[2] == 1 and out_channels == channels > 1
    if (height, width) == (1, 1):
        # On maps of one position, zero padding leaves only the centre tap.
        centre = weight[..., kernel_size // 2, kernel_size // 2]
        flat = x[..., 0, 0]
        return (flat * centre if depthwise else centre @ flat)[..., None, None]
    if kernel_size == 1 and not depthwise:
        return (weight[..., 0, 0] @ x.flatten(2)).unflatten(2, x.shape[2:])
    images = x.permute(2, 0, 1, 3, 4).flatten(1, 2)
    groups = networks * channels if depthwise else networks
    out = nn.functional.conv2d(images, weight.flatten(0, 1), padding=kernel_size // 2, groups=groups)
    return out.unflatten(1, (networks, out_channels)).permute(1, 2, 0, 3, 4)


@final
@dataclass(frozen=True, kw_only=True)
class SingleConvolution:
    """A convolution and its activation, f(W X): the paper's Fig. 1 (a) and (b)."""

    kernel_size: int
    expands: bool = False
    depthwise: bool = False

    def weight_shapes(self, size: Size) -> list[tuple[int, int, int]]:
        return [(size.out_channels, size.in_channels, self.kernel_size)]

    def __call__(self, x: Tensor, weights: Sequence[Tensor], *, activation: Function, norm: Function) -> Tensor:
        return activation(norm(convolve(x, weights[0])))


@final
@dataclass(frozen=True, kw_only=True)
class InvertedBottleneck:
    """A bottleneck: 1x1, 3x3, 1x1 convolutions, activations after the first two, the input added to the first
    channels."""

    depthwise: bool
    expands: bool = True

    def weight_shapes(self, size: Size) -> list[tuple[int, int, int]]:
        inside = size.expanded_channels
        middle = (inside, 1 if self.depthwise else inside, 3)
        return [(inside, size.in_channels, 1), middle, (size.out_channels, inside, 1)]

    def __call__(self, x: Tensor, weights: Sequence[Tensor], *, activation: Function, norm: Function) -> Tensor:
        inside = activation(norm(convolve(x, weights[0])))
        inside = activation(norm(convolve(inside, weights[1])))
        out = norm(convolve(inside, weights[2]))
        shared = min(x.shape[1], out.shape[1])
        out[:, :shared] += x[:, :shared]
        return out


@final
@dataclass(frozen=True, kw_only=True)
class DeepNetwork:
    """A chain of 1x1 convolutions with an activation after each. Channels grow in `expand_layers` of them, each time by
    the same factor: the first, the last or evenly spread ones; the others keep their width."""

    layers: int
    expand_layers: int
    placement: Placement
    expands: bool = False
    depthwise: bool = False

    def widths(self, size: Size) -> list[int]:
        """Channels before the first layer and after each."""
        growth = (size.out_channels / size.in_channels) ** (1 / self.expand_layers)
        return [round(size.in_channels * growth ** self._grown(layer)) for layer in range(self.layers + 1)]

    def _grown(self, layer: int) -> int:
        """Count the expand layers before this layer."""
        if self.placement == "early":
            return min(layer, self.expand_layers)
        if self.placement == "late":
            return max(0, layer - (self.layers - self.expand_layers))
        return (2 * layer * self.expand_layers + self.layers) // (2 * self.layers)

    def weight_shapes(self, size: Size) -> list[tuple[int, int, int]]:
        widths = self.widths(size)
        return [(after, before, 1) for before, after in pairwise(widths)]

    def __call__(self, x: Tensor, weights: Sequence[Tensor], *, activation: Function, norm: Function) -> Tensor:
        for weight in weights:
            x = activation(norm(convolve(x, weight)))
        return x


BLOCKS: dict[str, Block] = {
    "conv1x1": SingleConvolution(kernel_size=1),
    "conv3x3": SingleConvolution(kernel_size=3),
    "bottleneck3x3": InvertedBottleneck(depthwise=False),
    "bottleneck_depthwise": InvertedBottleneck(depthwise=True),
}


def find_block(name: str) -> Block:
    """Return a block of BLOCKS, a deep network by `deep_name`, or the result of calling `module:factory`."""
    if name in BLOCKS:
        return BLOCKS[name]
    if match := re.fullmatch(r"(early|spread|late)_(\d+)_of_(\d+)", name):
        expand_layers, layers = int(match[2]), int(match[3])
        if 1 <= expand_layers <= layers:
            return DeepNetwork(layers=layers, expand_layers=expand_layers, placement=cast(Placement, match[1]))
    return cast(Block, call_factory(name, allowed=f"{', '.join(BLOCKS)}, late_2_of_6"))


def call_factory(name: str, *, allowed: str) -> object:
    """Call the function `module:factory` without arguments and return the result. Raise ValueError if there is no such
    function."""
    module, colon, factory = name.partition(":")
    if not colon:
        raise ValueError(f"unknown name {name!r}; allowed: {allowed}, or module:factory")
    try:
        return getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be imported ({error}); allowed: {allowed}, or module:factory") from error


ACTIVATIONS = {"linear" if name == "identity" else name: kind for name, kind in blocks.ACTIVATIONS.items()}
"""Activations by the names in the paper's Fig. 1."""


def find_activation(name: str) -> Function:
    """Return a function of ACTIVATIONS, or any class of torch.nn by name, such as GELU or Mish."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    kind = getattr(nn, name, None)
    try:
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            probe = kind()(torch.zeros(2, 3))
            if isinstance(probe, Tensor) and probe.shape == (2, 3):
                return kind()
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        pass
    raise ValueError(
        f"--activations has {name!r}; allowed: {', '.join(ACTIVATIONS)}, or a class of torch.nn such as GELU"
    )


def generator_for(seed: int, block: str, *, ratio: float, network: int) -> np.random.Generator:
    """Return the random generator of one network, which depends only on these four arguments."""
    words = [seed, zlib.crc32(block.encode()), round(ratio * 1_000_000), network]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def outputs(
    protocol: Protocol, block: Block, *, batch: Sequence[Sequence[Tensor]], activations: Sequence[str]
) -> Tensor:
    """Compute output matrices (activations, networks, out channels, samples x positions) of networks of one size from
    the result of `draw_tensors`.

    Every network is computed once, with the samples of all activations side by side, so that its matrix products are
    large.
    """
    *weights, x = (torch.stack(list(parts)) for parts in zip(*batch, strict=True))
    samples, functions = x.shape[2], [find_activation(name) for name in activations]

    def activation(maps: Tensor) -> Tensor:
        return torch.cat([function(part) for function, part in zip(functions, maps.split(samples, 2), strict=True)], 2)

    def norm(maps: Tensor) -> Tensor:
        return protocol.normalise(maps, samples)

    out = block(x.repeat(1, 1, len(functions), 1, 1), weights, activation=activation, norm=norm)
    return out.unflatten(2, (-1, samples)).movedim(2, 0).flatten(3)
