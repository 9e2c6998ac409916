"""The protocol of the rank study: every free choice is a command-line option."""

import dataclasses
import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rexnet.errors import require, require_at_least

if TYPE_CHECKING:
    import torch

BLOCK_NAMES = ("conv1x1", "conv3x3", "bottleneck3x3", "bottleneck_depthwise")
ACTIVATION_NAMES = ("linear", "relu", "relu6", "leaky_relu", "elu", "softplus", "hardswish", "silu")
"""Names of the blocks in the paper's Fig. 1."""
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def draw_number(distribution: str, generator: np.random.Generator) -> float:
    """Draw a number from `uniform:LOW:HIGH`, `log_uniform:LOW:HIGH` or `constant:VALUE`."""
    kind, *parameters = distribution.split(":")
    numbers = [float(parameter) for parameter in parameters]
    if kind == "constant" and len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2 and 0 <= numbers[0] < numbers[1]:
        if kind == "uniform":
            return float(generator.uniform(numbers[0], numbers[1]))
        if kind == "log_uniform" and numbers[0] > 0:
            return math.exp(generator.uniform(math.log(numbers[0]), math.log(numbers[1])))
    allowed = "constant:VALUE, uniform:LOW:HIGH and log_uniform:LOW:HIGH with LOW below HIGH, none negative"
    raise ValueError(f"expansion is {distribution!r}; allowed: {allowed}")


Placement = Literal["early", "spread", "late"]


def deep_name(placement: Placement, expand_layers: int, *, layers: int) -> str:
    """Return the name of a DeepNetwork for `find_block`."""
    return f"{placement}_{expand_layers}_of_{layers}"


@dataclass(frozen=True, order=True, kw_only=True)
class Size:
    """The size of one network; `expanded_channels` are those inside a bottleneck."""

    in_channels: int
    out_channels: int
    expanded_channels: int
    samples: int


Function = Callable[["torch.Tensor"], "torch.Tensor"]


class Block(typing.Protocol):
    """A network whose output is measured."""

    @property
    def expands(self) -> bool:
        """True if its expanded channels are drawn from the protocol's `expansion`."""
        ...

    @property
    def depthwise(self) -> bool:
        """True if its expanded channels are drawn from the protocol's `depthwise_expansion`."""
        ...

    def weight_shapes(self, size: Size) -> list[tuple[int, int, int]]:
        """Return output channels, input channels per group and kernel size of each convolution."""
        ...

    def __call__(
        self, x: "torch.Tensor", weights: "Sequence[torch.Tensor]", *, activation: Function, norm: Function
    ) -> "torch.Tensor":
        """Compute the output; `norm` is the batch norm that follows a convolution."""
        ...


INPUTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "half_normal": lambda generator, shape: np.abs(generator.standard_normal(shape, np.float32)),
    "normal": lambda generator, shape: generator.standard_normal(shape, np.float32),
    "uniform": lambda generator, shape: generator.random(shape, np.float32),
    "exponential": lambda generator, shape: generator.standard_exponential(shape, np.float32),
}
WEIGHTS: dict[str, Callable[[int], float]] = {
    "normal": lambda fan_in: 1.0,
    "lecun": lambda fan_in: fan_in**-0.5,
    "he": lambda fan_in: (2.0 / fan_in) ** 0.5,
}
"""Standard deviation of normal weights as a function of the number of inputs per output."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Sampling of random networks and computation of their rank; the defaults fit the paper's Fig. 1 best.

    Of these, the paper states only blocks, activations and ratios.
    """

    blocks: tuple[str, ...] = BLOCK_NAMES
    """conv1x1, conv3x3, bottleneck3x3, bottleneck_depthwise, or module:factory for a block of your own."""
    activations: tuple[str, ...] = ACTIVATION_NAMES
    """linear, relu, relu6, leaky_relu, elu, softplus, hardswish, silu, or any class of torch.nn, such as GELU."""
    ratios: tuple[float, ...] = RATIOS
    """Ratios of input to output channels."""
    smallest_size: int = 5
    """Minimum number of output channels."""
    largest_size: int = 131
    """Maximum number of output channels."""
    size_step: int = 6
    """Step of the output channels: the smallest size plus a multiple of it, all equally likely; networks of one size
    are computed together."""
    samples_per_channel: float = 3.0
    """Ratio of samples to output channels."""
    spatial_size: int = 1
    """Height and width of the maps; each position counts as a sample."""
    inputs: Literal["half_normal", "normal", "uniform", "exponential"] = "half_normal"
    """Distribution of the input. half_normal is |N(0, 1)|."""
    weights: Literal["normal", "lecun", "he"] = "lecun"
    """Normal weights with standard deviation 1, 1 / sqrt(fan in) or sqrt(2 / fan in), times the weight scale."""
    weight_scale: float = 2.5
    """Factor applied to all weights. Smooth activations are nearly piecewise linear for a large signal, and linear for
    a small one."""
    norm: Literal["initial", "batch", "none"] = "initial"
    """Batch norm with its initial statistics, with those of the samples, or none."""
    expansion: str = "log_uniform:0.3:8"
    """Ratio of expanded to input channels inside the bottleneck with a 3x3 convolution: uniform:LOW:HIGH,
    log_uniform:LOW:HIGH or constant:VALUE, drawn for each network."""
    depthwise_expansion: str = "log_uniform:0.01:8"
    """Ratio of expanded to input channels inside the bottleneck with a depthwise convolution."""
    tolerance: float | None = 1e-4
    """Fraction of the largest singular value above which others count; None: max(rows, columns) times float32's
    epsilon."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the network; ranks are always computed in float64."""
    spectra: bool = False
    """Also compute effective rank, stable rank and nuclear norm, which need all singular values and take several times
    as long."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        for name in ("blocks", "activations", "ratios"):
            values = getattr(self, name)
            require(0 < len(values) == len(set(values)), name, values, "one or more, each once")
        for ratio in self.ratios:
            require(0 < ratio <= 4, "ratios", ratio, "above 0, up to 4")
        require_at_least(self, 2, "smallest_size")
        largest = f"{self.smallest_size} (the smallest size) to 4096"
        require(self.smallest_size <= self.largest_size <= 4096, "largest_size", self.largest_size, largest)
        require_at_least(self, 1, "size_step", "spatial_size")
        require(self.samples_per_channel > 1, "samples_per_channel", self.samples_per_channel, "above 1")
        require(self.weight_scale > 0, "weight_scale", self.weight_scale, "above 0")
        holds = self.tolerance is None or 0 < self.tolerance < 1
        require(holds, "tolerance", self.tolerance, "above 0 and below 1, or None")
        require_at_least(self, 0, "seed")
        for distribution in (self.expansion, self.depthwise_expansion):
            draw_number(distribution, np.random.default_rng(0))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    def draw_size(self, block: Block, *, ratio: float, generator: np.random.Generator) -> Size:
        """Draw the output channels and expansion of a network, which determine all its sizes."""
        sizes = (self.largest_size - self.smallest_size) // self.size_step + 1
        out_channels = self.smallest_size + self.size_step * int(generator.integers(sizes))
        in_channels = max(1, round(ratio * out_channels))
        expanded = in_channels
        if block.expands:
            distribution = self.depthwise_expansion if block.depthwise else self.expansion
            expanded = max(1, round(draw_number(distribution, generator) * in_channels))
        samples = max(out_channels + 1, math.ceil(self.samples_per_channel * out_channels))
        return Size(in_channels=in_channels, out_channels=out_channels, expanded_channels=expanded, samples=samples)

    def draw_tensors(self, block: Block, size: Size, generator: np.random.Generator) -> "list[torch.Tensor]":
        """Draw the weights (out, in, k, k) of each convolution, then the input (channels, samples, height, width)."""
        import torch

        tensors = []
        side = self.spatial_size
        for out_channels, in_channels, kernel_size in block.weight_shapes(size):
            # On maps of one position only the centre tap matters: draw only that.
            kernel_size = kernel_size if side > 1 else 1
            shape = (out_channels, in_channels, kernel_size, kernel_size)
            deviation = self.weight_scale * WEIGHTS[self.weights](in_channels * kernel_size**2)
            tensors.append(generator.standard_normal(shape, np.float32) * np.float32(deviation))
        tensors.append(INPUTS[self.inputs](generator, (size.in_channels, size.samples, side, side)))
        dtype = torch.float64 if self.dtype == "float64" else torch.float32
        return [torch.from_numpy(tensor).to(dtype) for tensor in tensors]

    def normalise(self, x: "torch.Tensor", samples: int) -> "torch.Tensor":
        """Apply batch norm without weight and bias to (networks, channels, activations x samples, height, width), with
        separate statistics for each activation."""
        if self.norm == "none":
            return x
        if self.norm == "initial":
            return x * (1.0 + 1e-5) ** -0.5
        import torch

        apart = x.unflatten(2, (-1, samples))
        variance, mean = torch.var_mean(apart, dim=(3, 4, 5), correction=0, keepdim=True)
        return ((apart - mean) * (variance + 1e-5).rsqrt()).flatten(2, 3)
