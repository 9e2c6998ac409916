"""Convolutions of small maps in a form that a CPU computes several times faster than its convolution.

Images of 32 to 64 pixels end in maps of a few positions, and every network has maps of one position after pooling. The
gradient of a convolution's weight then takes its time for each channel, however small the map.
"""

from typing import final

import torch
from torch import Tensor, fx, nn


@final
class PooledConv2d(nn.Conv2d):
    """A 1x1 convolution of pooled maps; others are right too."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        return multiply_channels(input, self.weight, self.bias)


@final
class BlockConv2d(nn.Conv2d):
    """A convolution of a block, without bias: 1x1, or one filter a channel with zero padding of half its odd kernel."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ):
        padding = kernel_size // 2 * dilation
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.stride == self.dilation == (1, 1):
            return _convolve(input, self.weight, self.groups)
        return self._conv_forward(input, self.weight, self.bias)


# A leaf to torch.fx, which cannot follow a decision about shapes.
@fx.wrap
def _convolve(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    # The work of mixing grows with the square of the positions; at 16 the convolution is far ahead.
    few = x.is_cpu and x.shape[2] * x.shape[3] <= 4 and not torch.compiler.is_compiling()
    if not few:
        return nn.functional.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
    return multiply_channels(x, weight) if weight.shape[-1] == groups == 1 else mix_positions(x, weight)


def multiply_channels(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve (B, C, H, W) with (C', C, 1, 1), as a matrix product of channels at each position."""
    return nn.functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def mix_positions(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve (B, C, H, W) with (C, 1, k, k), as a matrix between positions for each channel."""
    _, channels, height, width = x.shape
    size = weight.shape[-1]
    position = torch.arange(height * width)
    row, column = position // width, position % width
    # From each output (first axis) to each input, counted in taps of the kernel.
    down = row[None] - row[:, None] + size // 2
    across = column[None] - column[:, None] + size // 2
    reached = (down >= 0) & (down < size) & (across >= 0) & (across < size)
    taps = torch.where(reached, down * size + across, 0)
    matrix = weight.to(x.dtype).flatten(1).mT[taps] * reached[..., None]  # (outputs, inputs, C)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, 1, height * width, channels)
    return (pixels * matrix).sum(2).unflatten(1, (height, width)).permute(0, 3, 1, 2)
