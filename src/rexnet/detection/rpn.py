"""Changes to the region proposal network (RPN) of two-stage detectors where torchvision's is slow or inexact.

Overlaps of boxes with anchors fit into memory for any number of objects; proposals are ranked by their logits;
coordinates stay float32 under autocast, since bfloat16 cannot distinguish pixel 999 from 1001; and the gradient of the
convolution is computed only from positions with a nonzero gradient. The RPN scores every position of every map but
learns from 256 anchors per image, so a few hundred of a hundred thousand positions have a gradient, and a dense
backward pass would mostly multiply zeros.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from rexnet.training.freezing import replace_module

DENSEST = 0.25
"""Maximum fraction of positions with a gradient for which they are gathered; copies of their surroundings then stay
small compared with the maps."""
_SCALE = 1 / 16
"""Scale of the logits; a power of two, so the products are exact."""
_PAIRS_AT_ONCE = 2**22


def overlap_in_parts(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return torchvision's `box_iou` of (N, 4) and (M, 4), float32 (N, M):

    the same values in less memory. For 1000 objects and the 200,000 anchors of a large image, the result takes 0.8 GB,
    and torchvision needs eight times as much to compute it.
    """
    part = max(1, _PAIRS_AT_ONCE // max(1, len(boxes)))
    if part >= len(anchors):
        return box_iou(boxes, anchors)
    overlaps = torch.empty(len(boxes), len(anchors), dtype=boxes.dtype, device=boxes.device)
    for start in range(0, len(anchors), part):
        overlaps[:, start : start + part] = box_iou(boxes, anchors[start : start + part])
    return overlaps


def match_in_parts(detector: nn.Module) -> None:
    """Make the RPN, which matches every anchor, use `overlap_in_parts`; SSDLite has few anchors."""
    if "rpn" in dict(detector.named_children()):
        vars(detector.get_submodule("rpn"))["box_similarity"] = overlap_in_parts


def rank_proposals_by_logits(detector: nn.Module) -> None:
    """Make a two-stage detector keep the proposals with the highest logits.

    torchvision ranks by the sigmoid, which in float32 is 1 for all logits above 17 and takes few distinct values just
    below: rounding then selects the proposals, differently in ONNX Runtime and OpenVINO. Only the order matters, which
    is the same for a sixteenth of the logits.
    """
    if "rpn" in dict(detector.named_children()):
        stage: Any = detector.get_submodule("rpn")
        # A partial of a bound method is copied with the detector; a closure would keep using this one.
        vars(stage)["filter_proposals"] = partial(_filter, stage.filter_proposals)


def _filter(plain: Callable[..., Any], proposals: Tensor, objectness: Tensor, *others: Any) -> Any:
    return plain(proposals, objectness * _SCALE, *others)


def keep_coordinates_float32(detector: nn.Module) -> None:
    """Keep anchors and the heads' outputs in float32, or float64 for a float64 network, regardless of the precision of
    the preceding layers.

    In torchvision, anchors and decoded boxes have the dtype of the feature maps and of the heads' outputs.
    """
    for name, module in detector.named_modules():
        if name.endswith("anchor_generator"):
            module.register_forward_pre_hook(_anchors_float32)
        elif name in ("head", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor"):
            module.register_forward_hook(_outputs_float32)


def _anchors_float32(_module: nn.Module, inputs: tuple[ImageList, list[Tensor]]) -> tuple[ImageList, list[Tensor]]:
    images, maps = inputs
    # An anchor generator reads only the size, dtype and device of a map: expand one number to its shape.
    return images, [features.new_zeros((), dtype=_exact(features)).expand(features.shape) for features in maps]


def _outputs_float32(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.to(_exact(outputs))
    if isinstance(outputs, dict):
        return {name: output.to(_exact(output)) for name, output in outputs.items()}
    return tuple(_outputs_float32(_module, _inputs, output) for output in outputs)


def _exact(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


@final
class SparselyUsedConv2d(nn.Conv2d):
    """Convolution with stride 1, an odd kernel and padding that keeps the size:

    (B, C, H, W) -> (B, C', H, W). Output and gradients equal those of nn.Conv2d up to rounding, but the gradients are
    computed only from positions with a nonzero gradient.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(input)
        return _Convolution.apply(input, self.weight, self.bias)


def use_sparse_gradients(detector: nn.Module) -> None:
    """Replace the convolution of the RPN with a SparselyUsedConv2d that has the same tensors; SSDLite has no RPN."""
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
        # Under autocast, the gradient has the dtype in which the output was computed.
        operands = gradient, x.to(gradient.dtype), weight.to(gradient.dtype)
        used = (gradient != 0).any(1)
        found = _gradient_at(*operands, used) if used.float().mean() <= DENSEST else _dense_gradient(*operands)
        return found[0].to(x.dtype), found[1].to(weight.dtype), found[2].to(weight.dtype)


def _dense_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    padding = [weight.shape[-1] // 2] * 2
    everything = [True, True, True]
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], 1, everything
    )


def _gradient_at(gradient: Tensor, x: Tensor, weight: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, as three matrix products over the positions in `used` (B, H, W)."""
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
