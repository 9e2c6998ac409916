"""Ranks of a network's layers on real images, which show its bottlenecks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rexnet.ranks.matrix_rank import effective_rank, nuclear_norm, stable_rank

_FOLLOWERS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    *(getattr(nn, name) for name in ("ReLU", "ReLU6", "LeakyReLU", "ELU", "Softplus", "Hardswish", "SiLU", "GELU")),
    *(getattr(nn, name) for name in ("Mish", "PReLU", "SELU", "CELU", "Hardtanh", "Tanh", "Sigmoid", "Softmax")),
)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Convolution or linear layer with the layers after it: its output matrix has a row per channel and a column per
    sample."""

    name: str
    kind: str
    in_channels: int
    out_channels: int
    samples: int
    rank: int
    effective_rank: float
    stable_rank: float
    nuclear_norm: float
    spectrum: list[float]
    """Singular values, largest first."""

    @property
    def ratio(self) -> float:
        """Ratio of input to output channels; 1 for depthwise convolutions."""
        return 1.0 if "depthwise" in self.kind else self.in_channels / self.out_channels

    @property
    def lacks_samples(self) -> bool:
        """Whether there are fewer samples than output channels, which limits the rank."""
        return self.samples < self.out_channels

    @property
    def rank_ratio(self) -> float:
        return self.rank / self.out_channels

    @property
    def effective_rank_ratio(self) -> float:
        return self.effective_rank / self.out_channels

    @property
    def stable_rank_ratio(self) -> float:
        return self.stable_rank / self.out_channels


def kind_of(kernel_size: tuple[int, ...], *, groups: int, in_channels: int) -> str:
    """Return the name of a convolution in tables: 1x1, depthwise 3x3, grouped 3x3."""
    sharing = "depthwise " if groups == in_channels > 1 else "grouped " if groups > 1 else ""
    return sharing + "x".join(map(str, kernel_size))


class _Gram:
    """Sum of the outer products of a layer's output columns: (C, C) for any number of samples."""

    def __init__(self, name: str, module: Any):
        self.name = name
        self.total: Tensor | None = None
        self.samples = 0
        if isinstance(module, nn.Conv2d):
            self.kind = kind_of(module.kernel_size, groups=module.groups, in_channels=module.in_channels)
            self.in_channels, self.out_channels = module.in_channels, module.out_channels
        else:
            self.kind = "linear"
            self.in_channels, self.out_channels = module.in_features, module.out_features

    def add(self, output: Tensor) -> None:
        axis = 1 if self.kind != "linear" else output.ndim - 1
        columns = output.detach().movedim(axis, 0).flatten(1).double()
        if not torch.isfinite(columns.sum()):
            raise ValueError(f"the output of {self.name} has values that are not finite, so its rank is undefined")
        part = columns @ columns.mT
        self.total = part if self.total is None else self.total + part
        self.samples += columns.shape[1]

    def layer(self, tolerance: float) -> Layer:
        assert self.total is not None
        values = torch.linalg.eigvalsh(self.total.cpu()).flip(0).clamp_min(0.0).sqrt()
        return Layer(
            name=self.name,
            kind=self.kind,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            samples=self.samples,
            rank=int((values > tolerance * values[0]).sum()),
            effective_rank=float(effective_rank(values)),
            stable_rank=float(stable_rank(values)),
            nuclear_norm=float(nuclear_norm(values)),
            spectrum=values.tolist(),
        )


class _Watch:
    """Hooks on a forward pass: a layer ends where the next one begins."""

    def __init__(self, model: nn.Module):
        self.grams: dict[str, _Gram] = {}
        self.open: tuple[_Gram, Tensor] | None = None
        self.handles = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                self.handles.append(module.register_forward_pre_hook(lambda *_: self.close()))
                self.handles.append(module.register_forward_hook(self._begin(name)))
            elif isinstance(module, _FOLLOWERS) or _is_small_activation(module):
                self.handles.append(module.register_forward_hook(self._continue))

    def _begin(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            gram = self.grams.get(name) or self.grams.setdefault(name, _Gram(name, module))
            self.open = gram, output

        return hook

    def _continue(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.open is not None and isinstance(output, Tensor) and output.shape == self.open[1].shape:
            self.open = self.open[0], output

    def close(self) -> None:
        if self.open is not None:
            gram, output = self.open
            self.open = None
            gram.add(output)


def _is_small_activation(module: nn.Module) -> bool:
    """Return whether a module is a norm or activation, including those of other libraries: timm's BatchNormAct2d and
    SiLU, and this package's."""
    name = type(module).__name__.lower()
    return any(word in name for word in ("norm", "silu", "swish", "relu", "gelu", "mish", "sigmoid"))


@torch.inference_mode()
def measure_layers(model: nn.Module, batches: Iterable[Tensor], *, tolerance: float) -> list[Layer]:
    """Measure the ranks of every Conv2d and Linear of `model`, in order of computation, on images (B, 3, H, W).

    A layer's output includes the norm and activation modules that follow it directly; later sums or products without a
    module count only if they are in place. Singular values come from the Gram matrix in float64, so those below 1e-7 of
    the largest cannot be distinguished from zero.
    """
    if not 1e-7 <= tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; allowed for a network: 1e-7 or more, below 1")
    watch = _Watch(model)
    training = model.training
    try:
        model.eval()
        for images in batches:
            model(images)
            watch.close()
    finally:
        model.train(training)
        for handle in watch.handles:
            handle.remove()
    if not watch.grams:
        raise ValueError("the network runs no Conv2d or Linear layer, so there is nothing to measure")
    return [gram.layer(tolerance) for gram in watch.grams.values()]
