"""Cost of a network: parameters, multiply-accumulates and activation bytes, layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from rexnet.models.blocks import ACTIVATIONS


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One child of the network's top-level sequences (or one top-level module), for one image."""

    name: str
    parameters: int
    macs: int
    """Multiply-accumulates of convolutions and linear layers."""
    activation_bytes: int
    """Bytes of all convolution and linear outputs in float32."""
    output_shape: tuple[int, ...]
    """Shape without the batch axis."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a network for one image of `image_size_px`."""

    layers: tuple[LayerCost, ...]
    image_size_px: int

    def __str__(self) -> str:
        """Return a text such as "4.80 M parameters, 398 M MACs at 224 px"."""
        macs = f"{self.macs / 1e9:.3g} G" if self.macs >= 1e9 else f"{self.macs / 1e6:.3g} M"
        return f"{self.parameters / 1e6:.2f} M parameters, {macs} MACs at {self.image_size_px} px"

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        return sum(layer.activation_bytes for layer in self.layers)


# Shape-preserving layers that cost nothing; skipping them halves the time.
_FREE = (nn.BatchNorm2d, nn.Dropout, nn.Sigmoid, *ACTIVATIONS.values())


def _unchanged(input: Tensor) -> Tensor:
    return input


@dataclass
class _Tally:
    macs: int = 0
    activation_bytes: int = 0
    output_shape: tuple[int, ...] = ()


def _count_operation(tally: _Tally, module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
    # Each output element of a convolution or linear layer costs one row of the weight.
    tally.macs += output.numel() * module.get_parameter("weight")[0].numel()
    tally.activation_bytes += output.numel() * torch.float32.itemsize


def _note_shape(tally: _Tally, _module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
    if isinstance(output, Tensor):
        tally.output_shape = tuple(output.shape[1:])


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        if isinstance(child, nn.Sequential):
            yield from ((f"{name}.{index}", layer) for index, layer in child.named_children())
        else:
            yield name, child


@contextmanager
def _tallies(model: nn.Module) -> Iterator[dict[str, _Tally]]:
    tallies: dict[str, _Tally] = {}
    hooks = []
    for name, layer in _layers(model):
        tally = tallies[name] = _Tally()
        hooks.append(layer.register_forward_hook(partial(_note_shape, tally)))
        for module in layer.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                hooks.append(module.register_forward_hook(partial(_count_operation, tally)))
    try:
        yield tallies
    finally:
        for hook in hooks:
            hook.remove()


def measure_cost(model: nn.Module, image_size_px: int = 224, in_channels: int = 3) -> Cost:
    """Measure any network of convolutions and linear layers for one square image.

    Only shapes are computed, on a copy. MACs count convolutions and linear layers, as the paper's FLOPs do. Parameters
    shared by two layers count twice.
    """
    meta_model = deepcopy(model).to("meta").eval()
    for module in meta_model.modules():
        if isinstance(module, _FREE):
            module.forward = _unchanged
    image = torch.empty(1, in_channels, image_size_px, image_size_px, device="meta")
    with _tallies(meta_model) as tallies, torch.no_grad():
        meta_model(image)
    layers = tuple(
        LayerCost(
            name=name,
            parameters=sum(parameter.numel() for parameter in layer.parameters()),
            macs=tallies[name].macs,
            activation_bytes=tallies[name].activation_bytes,
            output_shape=tallies[name].output_shape,
        )
        for name, layer in _layers(meta_model)
    )
    return Cost(layers=layers, image_size_px=image_size_px)
