"""The gradient of a convolution of whose outputs a loss uses few.

The first stage of a two-stage detector scores every position of every map, and learns from 256 anchors an image: of a
hundred thousand positions a few hundred have a gradient. The dense backward pass multiplies all the zeros.
"""

from typing import Any, final

import torch
from torch import Tensor, nn

from rexnet.training.freezing import replace_module

DENSEST = 0.25
"""Share of positions with a gradient up to which they are gathered; the copies of their surroundings then stay small
beside the maps."""


@final
class SparselyUsedConv2d(nn.Conv2d):
    """A convolution of stride 1 with zero padding of half its odd kernel; (B, C, H, W) -> (B, C', H, W).

    The output is nn.Conv2d's. The gradients are too, up to rounding, from the positions alone whose gradient is not
    zero.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(input)
        return _Convolution.apply(input, self.weight, self.bias)


def use_sparse_gradients(detector: nn.Module) -> None:
    """Makes the convolution of the first stage a SparselyUsedConv2d with the same tensors; SSDLite has none."""
    for name, module in list(detector.named_modules()):
        if name.startswith("rpn.head.conv.") and type(module) is nn.Conv2d:
            channels, size = (module.in_channels, module.out_channels), module.kernel_size[0]
            sparse = SparselyUsedConv2d(*channels, size, padding=size // 2, device="meta")
            sparse.weight, sparse.bias = module.weight, module.bias
            replace_module(detector, name, sparse)


@final
class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        # Under autocast the gradient has the type in which the output was computed.
        operands = gradient, x.to(gradient.dtype), weight.to(gradient.dtype)
        used = (gradient != 0).any(1)
        found = _gathered(*operands, used) if used.float().mean() <= DENSEST else _dense(*operands)
        return found[0].to(x.dtype), found[1].to(weight.dtype), found[2].to(weight.dtype)


def _dense(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    padding = [weight.shape[-1] // 2] * 2
    everything = [True, True, True]
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], 1, everything
    )


def _gathered(gradient: Tensor, x: Tensor, weight: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias as three matrix products over the positions in `used` (B, H, W)."""
    image, row, column = used.nonzero(as_tuple=True)
    values = gradient[image, :, row, column]  # (positions, C')
    size = weight.shape[-1]
    edge = size // 2
    pixels = nn.functional.pad(x, (edge, edge, edge, edge)).permute(0, 2, 3, 1)  # (B, H + 2 edge, W + 2 edge, C)
    _, height, width, channels = pixels.shape
    steps = torch.arange(size, device=x.device)
    taps = (steps[:, None] * width + steps).flatten()
    index = ((image * height + row) * width + column)[:, None] + taps  # (positions, taps) into the pixels
    patches = pixels.reshape(-1, channels)[index].flatten(1)
    of_weight = (values.mT @ patches).unflatten(1, (size, size, channels)).permute(0, 3, 1, 2)
    spread = (values @ weight.permute(0, 2, 3, 1).flatten(1)).view(-1, channels)
    of_pixels = pixels.new_zeros(pixels.shape)
    of_pixels.view(-1, channels).index_add_(0, index.flatten(), spread)
    of_x = of_pixels[:, edge : height - edge, edge : width - edge].permute(0, 3, 1, 2)
    return of_x, of_weight, values.sum(0)
