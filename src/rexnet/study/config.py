"""Options of `rexnet study`, in a separate module so that `--help` imports nothing heavy."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rexnet.data.datasets import check_images, open_dataset
from rexnet.data.preprocess import require_image_size
from rexnet.errors import require, require_at_least
from rexnet.options import Device, positional
from rexnet.references import MEASURABLE, resolve
from rexnet.study.protocol import ACTIVATION_NAMES, BLOCK_NAMES, Placement, Protocol, deep_name
from rexnet.study.tables import check_folder
from rexnet.training.config import TrainConfig
from rexnet.training.recipes import small_image

if TYPE_CHECKING:
    from rexnet.models.config import RexNetConfig
    from rexnet.study.factors import Factor

CHUNK = 50
"""Networks per row of the table. Fixed, so that a row covers the same networks for any total number."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A specific network to measure instead of random ones, and its images."""

    model: str | None = None
    """Measure this network layer by layer instead of random ones: a checkpoint, a folder of rexnet card, a name such
    as rexnet_100, a file of rexnet search export, timm/resnet50 or torchvision/vgg16_bn (random weights unless
    --pretrained), or module:factory."""
    pretrained: bool = False
    """Published weights for a network given by name; timm's and torchvision's are downloaded unless cached."""
    data: str | None = None
    """Folder of images for --model, read with all sub-folders, or a named dataset such as digits."""
    images: int = 64
    """Images to measure on, evenly spread over the folder."""
    image_size: int | None = None
    """Image side in pixels; None: that of the network, else 224."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        for name in ("data", "image_size"):
            value = getattr(self, name)
            require(value is None or self.model is not None, name, value, "only with --model, which names a network")
        require(self.data is not None or self.model is None, "data", self.data, "with --model, a folder of images")
        require_at_least(self, 1, "images")
        require_image_size(self)


def _check_names(protocol: Protocol) -> None:
    """Raise ValueError for an unknown block or activation; known names need no import of torch."""
    if set(protocol.blocks) - set(BLOCK_NAMES) or set(protocol.activations) - set(ACTIVATION_NAMES):
        from rexnet.study.networks import find_activation, find_block

        for name in protocol.blocks:
            find_block(name)
        for name in protocol.activations:
            find_activation(name)


def _check_amounts(networks: int, processes: int) -> None:
    whole = networks >= CHUNK and networks % CHUNK == 0
    require(whole, "networks", networks, f"a multiple of {CHUNK}, which share a row of the table")
    require(processes >= 1 or processes == -1, "processes", processes, "1 or more, or -1")


@dataclass(frozen=True, kw_only=True)
class RankConfig:
    """Measure the rank of the outputs of random networks, or, with --model, of each layer of a given network."""

    output: str = "rank_study"
    """Folder for tables and figures. The same command resumes a stopped study there; more --networks extend it."""
    networks: int = 200
    """Random networks per block and ratio, a multiple of 50; each is measured with every activation."""
    processes: int = 1
    """Processes on this machine; -1: one for each core."""
    address: str | None = None
    """Scheduler of a Dask cluster to compute on, such as tcp://host:8786."""
    protocol: Protocol = field(default_factory=Protocol)
    network: NetworkOptions = field(default_factory=NetworkOptions)

    def __post_init__(self) -> None:
        _check_amounts(self.networks, self.processes)
        _check_names(self.protocol)
        alone = self.address is None or self.processes == 1
        require(alone, "processes", self.processes, "1 with --address, whose cluster has its own processes")

    def check(self) -> None:
        """Raise ValueError for an output, a network or images that cannot be used."""
        check_folder(self.output)
        if self.network.model is not None and self.network.data is not None:
            resolve(self.network.model, allowed=MEASURABLE)
            check_images(self.network.data)


PLACEMENTS: tuple[Placement, ...] = ("late", "spread", "early")


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Measure the rank of the outputs of deep random networks by the number and placement of their expand layers.

    All networks have the same depth and the same channels at both ends; only the layers in which the channels grow
    differ. Version 1 of the paper publishes neither depth, widths nor weights, so these are our choice.
    """

    output: str = "depth_study"
    """Folder for tables and figures. The same command resumes a stopped study there; more --networks extend it."""
    networks: int = 200
    """Random networks per number and placement of expand layers, a multiple of 50; each is measured with every
    activation."""
    layers: int = 6
    """1x1 convolutions of a network, each with its activation."""
    ratio: float = 0.1
    """Ratio of input to output channels of the whole network."""
    activations: tuple[str, ...] = ACTIVATION_NAMES
    """linear, relu, relu6, leaky_relu, elu, softplus, hardswish, silu, or any class of torch.nn, such as GELU."""
    seed: int = 0
    """Random seed."""
    processes: int = 1
    """Processes on this machine; -1: one for each core."""

    def __post_init__(self) -> None:
        _check_amounts(self.networks, self.processes)
        require(2 <= self.layers <= 50, "layers", self.layers, "2 to 50")
        require(0 < self.ratio < 1, "ratio", self.ratio, "above 0 and below 1, so that there is something to expand")
        _check_names(replace(self.protocol(), blocks=BLOCK_NAMES))

    def check(self) -> None:
        """Raise ValueError for an output that cannot be used."""
        check_folder(self.output)

    def protocol(self) -> Protocol:
        """Return a protocol whose weights preserve the scale of the signal, which would otherwise grow until a SiLU
        acts as a ReLU and a ReLU6 as a step, and whose networks are large enough for no layer to have one or two
        channels."""
        return Protocol(
            blocks=tuple(deep_name(*cell, layers=self.layers) for cell in self.cells()),
            activations=self.activations,
            ratios=(self.ratio,),
            smallest_size=30,
            largest_size=70,
            size_step=10,
            samples_per_channel=2.0,
            weights="he",
            weight_scale=1.0,
            tolerance=2e-4,
            seed=self.seed,
        )

    def cells(self) -> list[tuple[Placement, int]]:
        """Return placement and number of expand layers, in the order of the tables."""
        return [(placement, count) for placement in PLACEMENTS for count in range(1, self.layers + 1)]


_RECIPE = small_image()


@dataclass(frozen=True, kw_only=True)
class FactorConfig:
    """Train the four two-bottleneck networks of the paper's Table 2 and measure top-1 and nuclear norm."""

    data: Annotated[str, positional("DATA")]
    """Labelled images as for rexnet train; the paper uses torchvision/cifar100."""
    output: str = "factor_study"
    """Folder for tables, figure and run folders. The same command resumes a stopped study there; more --seeds extend
    it."""
    seeds: int = 3
    """Training runs per network; the networks of one seed see the same images in the same order."""
    scale: float = 1.0
    """MACs as a fraction of the published ones; smaller networks keep all ratios."""
    epochs: int = _RECIPE.schedule.epochs
    """Epochs of the recipe small-image."""
    batch_size: int = _RECIPE.run.batch_size
    """Images per step; the learning rate scales with it."""
    shots: int | None = None
    """Train on only this many images of each class, different ones for every seed."""
    images: int = 2000
    """Validation images whose features are measured, evenly spread."""
    untrained: bool = False
    """Measure the initial networks without training."""
    processes: int = 1
    """Concurrent training runs; small networks leave most of a GPU idle."""
    workers: int | None = None
    """Processes that read images for each training; None: up to 8 with a GPU, none without."""
    device: Device = "auto"
    threads: int | None = None
    """CPU threads of PyTorch in each process; None: PyTorch's default."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "seeds", "threads", "processes")
        require(0 < self.scale <= 4, "scale", self.scale, "above 0, up to 4")
        require_at_least(self, 2, "images")
        for name in ("epochs", "shots", "batch_size", "processes", "workers"):
            default = type(self).__dataclass_fields__[name].default
            idle = self.untrained and getattr(self, name) != default
            require(not idle, name, getattr(self, name), f"{default} with --untrained, which trains nothing")
        from rexnet.study.factors import FACTORS

        self.training(FACTORS[0], seed=0)

    def check(self) -> None:
        """Raise ValueError for an output or data that cannot be used."""
        check_folder(self.output)
        open_dataset(self.data)

    @cached_property
    def networks(self) -> "dict[str, RexNetConfig]":
        """Configs by the names of FACTORS."""
        from rexnet.study.factors import FACTORS, network

        return {factor.name: network(factor, scale=self.scale) for factor in FACTORS}

    def network_file(self, factor: "Factor") -> Path:
        """Return the config file of the network to train."""
        return Path(self.output, "networks", f"{self.networks[factor.name].name}.json")

    def training(self, factor: "Factor", *, seed: int) -> TrainConfig:
        """Return the recipe small-image for the network of `factor`, which resumes a stopped run."""
        output = str(Path(self.output, "runs", f"{factor.name}-{seed}"))
        machine = {"device": self.device, "threads": self.threads, "workers": self.workers}
        run = {"seed": seed, "batch_size": self.batch_size, "output": output, "resume": True}
        return replace(
            _RECIPE,
            data=self.data,
            network=replace(_RECIPE.network, model=str(self.network_file(factor))),
            input=replace(_RECIPE.input, shots=self.shots),
            schedule=replace(_RECIPE.schedule, epochs=self.epochs),
            run=replace(_RECIPE.run, **machine, **run),
        )

    def settings(self) -> dict[str, object]:
        """Return the options that determine the rows of the table."""
        names = ("scale", "epochs", "shots", "batch_size", "images", "untrained")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class SpectraConfig:
    """Compare the singular values of networks' final features: the classifier's inputs, images x channels."""

    models: Annotated[tuple[str, ...], positional("MODEL")]
    """Checkpoints, folders of rexnet card, names such as rexnet_100 or timm/mobilenetv2_100 (random weights unless
    --pretrained), or module:factory."""
    data: str
    """Folder of images, read with all sub-folders, or a named dataset such as digits or torchvision/cifar10."""
    images: int = 2000
    """Images to measure on, evenly spread; there are no more singular values than images."""
    image_size: int | None = NetworkOptions.image_size
    """Image side in pixels; None: that of each network, else 224."""
    pretrained: bool = NetworkOptions.pretrained
    """Published weights for networks given by name; timm's are downloaded unless cached."""
    untrained_too: bool = False
    """Also measure each trained network with new random weights."""
    output: str = "spectra"
    """Folder for spectra.json, figure.png and figure.svg."""
    device: Device = NetworkOptions.device

    def __post_init__(self) -> None:
        require(0 < len(self.models) == len(set(self.models)), "models", self.models, "one or more, each once")
        self.network(self.models[0])  # check the options that all networks share

    def check(self) -> None:
        """Raise ValueError for an output, networks or images that cannot be used."""
        check_folder(self.output)
        for model in self.models:
            resolve(model, allowed=MEASURABLE)
        check_images(self.data)

    def network(self, name: str) -> NetworkOptions:
        """Return the options of one of the networks."""
        shared = {key: getattr(self, key) for key in ("data", "images", "image_size", "pretrained", "device")}
        return NetworkOptions(model=name, **shared)
