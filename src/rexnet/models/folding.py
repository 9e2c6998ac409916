"""A trained network without its batch norms, for evaluation."""

from copy import deepcopy
from itertools import pairwise
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def folded(model: Network) -> Network:
    """A copy of `model` in eval mode, whose convolutions do what the batch norms behind them did; equal up to rounding.

    A batch norm is what follows a convolution in an nn.Sequential and has a running variance; others stay. What it
    holds beside, an activation, stays in its place.
    """
    model = deepcopy(model).eval()
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        layers: list[tuple[str, Any]] = list(sequence.named_children())
        for (name, convolution), (behind, norm) in pairwise(layers):
            if isinstance(convolution, nn.Conv2d) and getattr(norm, "running_var", None) is not None:
                setattr(sequence, name, fuse_conv_bn_eval(convolution, norm))
                setattr(sequence, behind, nn.Sequential(*norm.children()))
    return model
