"""Building blocks of a ReXNet: convolution + norm + activation, squeeze-excitation, linear bottleneck, partial
shortcut.

Images of 32 to 64 pixels end in maps of a few positions, and every network has maps of one position after pooling. On a
CPU, matrix products over channels or positions are then several times faster than convolutions, whose weight gradient
has a cost per channel, no matter how small the map is.
"""

from itertools import islice
from typing import final

import torch
from torch import Tensor, fx, nn

from rexnet.models.config import ACTIVATION_NAMES, BlockSpec, NormConfig, check_activation


@final
class PooledConv2d(nn.Conv2d):
    """1x1 convolution, fastest on pooled maps, but correct for maps of any size."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        return multiply_channels(input, self.weight, self.bias)


@final
class BlockConv2d(nn.Conv2d):
    """Convolution of a block, without bias: 1x1, or one filter per channel with zero padding of half its odd kernel."""

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


# A leaf module for torch.fx, which cannot trace a branch on shapes.
@fx.wrap
def _convolve(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    # The cost of mixing grows with the square of the number of positions; at 16 the convolution is much faster.
    few = x.is_cpu and x.shape[2] * x.shape[3] <= 4 and not torch.compiler.is_compiling()
    if not few:
        return nn.functional.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
    return multiply_channels(x, weight) if weight.shape[-1] == groups == 1 else mix_positions(x, weight)


def multiply_channels(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve (B, C, H, W) with (C', C, 1, 1), as a matrix product over the channels at each position."""
    return nn.functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def mix_positions(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve (B, C, H, W) with (C, 1, k, k), as a matrix product over the positions for each channel."""
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


class SiLU(nn.Module):
    """x * sigmoid(x), in place in eval mode, which saves inference a copy per layer."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x, inplace=not self.training)


ACTIVATIONS: dict[str, type[nn.Module]] = dict(
    zip(
        ACTIVATION_NAMES,
        (nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Hardswish, SiLU),
        strict=True,
    )
)


def make_activation(name: str) -> nn.Module:
    """Make the module for a key of ACTIVATIONS. ReLU and ReLU6 work in place: their gradient needs only the output."""
    check_activation(name)
    return ACTIVATIONS[name](inplace=True) if name in ("relu", "relu6") else ACTIVATIONS[name]()


def conv_norm_activation(convolution: nn.Conv2d, *, norm: NormConfig, activation: str) -> list[nn.Module]:
    """Return the convolution, batch norm and, unless it is the identity, an activation.

    Return a list, not a module, because the official state-dict keys count these as layers of the enclosing sequence.
    """
    layers = [convolution, nn.BatchNorm2d(convolution.out_channels, momentum=norm.momentum, eps=norm.eps)]
    return layers if activation == "identity" else [*layers, make_activation(activation)]


class SqueezeExcitation(nn.Module):
    """Gate (B, C, H, W) by channel: pool, 1x1 convolution, batch norm, ReLU, 1x1 convolution, sigmoid.

    The batch norm after pooling makes training with a batch of one impossible. Source: clovaai/rexnet rexnetv1.py, SE.
    """

    def __init__(self, channels: int, hidden_channels: int, norm: NormConfig):
        super().__init__()
        self.fc = nn.Sequential(
            PooledConv2d(channels, hidden_channels),
            nn.BatchNorm2d(hidden_channels, momentum=norm.momentum, eps=norm.eps),
            nn.ReLU(inplace=True),
            PooledConv2d(hidden_channels, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3), keepdim=True))


class DropPath(nn.Module):
    """Zero samples of (B, C, H, W) in training with probability `rate` and scale the others (arXiv 1603.09382)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep_rate = 1.0 - self.rate
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep_rate).div_(keep_rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class LinearBottleneck(nn.Module):
    """Expand (1x1), depthwise, squeeze-excitation, activation, project (1x1); (B, C_in, H, W) -> (B, C_out, H', W').

    Source, also of the state-dict keys: clovaai/rexnet rexnetv1.py, LinearBottleneck.
    """

    def __init__(self, spec: BlockSpec, *, norm: NormConfig, drop_path_rate: float = 0.0):
        super().__init__()
        self.spec = spec
        expand: list[nn.Module] = []
        if spec.expanded_channels != spec.in_channels:
            expand = conv_norm_activation(
                BlockConv2d(spec.in_channels, spec.expanded_channels), norm=norm, activation=spec.expand_activation
            )
        depthwise = conv_norm_activation(
            BlockConv2d(
                spec.expanded_channels,
                spec.expanded_channels,
                spec.kernel_size,
                stride=spec.stride,
                dilation=spec.dilation,
                groups=spec.expanded_channels,
            ),
            norm=norm,
            activation="identity",
        )
        if spec.se_channels:
            depthwise.append(SqueezeExcitation(spec.expanded_channels, spec.se_channels, norm))
        project = conv_norm_activation(
            BlockConv2d(spec.expanded_channels, spec.out_channels), norm=norm, activation=spec.out_activation
        )
        self.num_expand_layers = len(expand)
        self.has_shortcut, self.added_channels = spec.shortcut, spec.out_channels - spec.in_channels
        self.out = nn.Sequential(*expand, *depthwise, make_activation(spec.depthwise_activation), *project)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate and spec.shortcut else nn.Identity()

    def expand(self, x: Tensor) -> Tensor:
        """Expand (B, C_in, H, W) to the input of the depthwise convolution, (B, C_expanded, H, W)."""
        for layer in islice(self.out, self.num_expand_layers):
            x = layer(x)
        return x

    def condense(self, expanded: Tensor, x: Tensor) -> Tensor:
        """Compute what follows `expand`: (B, C_expanded, H, W) and the block's input -> (B, C_out, H', W')."""
        for layer in islice(self.out, self.num_expand_layers, None):
            expanded = layer(expanded)
        return self._add_shortcut(expanded, x)

    def _add_shortcut(self, condensed: Tensor, x: Tensor) -> Tensor:
        if not self.has_shortcut:
            return condensed
        # The paper's zero-padded shortcut (section 4.2) as a sum: neither slices nor concatenates, keeps nothing for
        # the backward pass, and is one fused kernel under a compiler.
        shortcut = nn.functional.pad(x, (0, 0, 0, 0, 0, self.added_channels)) if self.added_channels else x
        return self.drop_path(condensed) + shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self._add_shortcut(self.out(x), x)


def zero_init_last(model: nn.Module) -> None:
    """Set the scales of the last norm of every block with a shortcut to zero: such a block starts as the identity, and
    the network learns in a fraction of the steps (arXiv 1706.02677, section 5.1)."""
    for block in model.modules():
        if isinstance(block, LinearBottleneck) and block.has_shortcut:
            last = [layer for layer in block.out if isinstance(layer, nn.BatchNorm2d)][-1]
            nn.init.zeros_(last.weight)
