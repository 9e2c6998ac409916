"""Options of the commands about networks in use. A field is an option, the text under it its help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rexnet.data.decode import BadImagePolicy
from rexnet.engines.config import Backend, Engine, Format, Output, Precision
from rexnet.errors import require
from rexnet.options import Device, Threads, positional
from rexnet.training.config import MeasureOptions

Int8Backend = Literal["openvino", "onnxruntime"]


@dataclass(frozen=True, kw_only=True)
class ValidateConfig(MeasureOptions):
    """Measure a trained classifier on labelled images."""

    checkpoint: Annotated[str, positional("MODEL")]
    """A run folder or a checkpoint of `rexnet train`, published weights such as rexnet_100.nav_in1k, a folder of
    `rexnet card` or hf://OWNER/NAME, timm/NAME, or a weights file."""
    data: Annotated[str, positional("DATA")]
    """A folder of class folders, a folder with val|valid|validation|test/, digits, torchvision/NAME, a folder of tars
    or its URL, or hfds/NAME."""
    model: str | None = None
    """The network of a weights file that does not say it: a name, a JSON file or timm/NAME."""
    split: Literal["val", "train"] = "val"
    """Split to measure on, where the data has two or was split for the training of MODEL."""
    output: str | None = None
    """Also write the result, with every class, to this JSON file."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Name the classes of images."""

    checkpoint: Annotated[str, positional("MODEL")]
    """A run folder or a checkpoint of `rexnet train`, published weights such as rexnet_100.nav_in1k, a .onnx or .xml
    file of `rexnet export`, a folder of `rexnet card` or hf://OWNER/NAME, timm/NAME, or a weights file."""
    images: Annotated[
        tuple[str, ...],
        positional("IMAGE|FOLDER|PATTERN ..."),
    ]
    """Image files, folders (read with all sub-folders) or patterns such as 'photos/*.jpg'."""
    model: str | None = None
    """The network of a weights file that does not say it: a name, a JSON file or timm/NAME."""
    top_k: int = 5
    """Classes to name for each image."""
    csv: bool = False
    """Print comma-separated values instead of a table."""
    json: bool = False
    """Print JSON instead of a table."""
    output: str | None = None
    """Write to this file instead of the terminal; .csv and .json choose the format."""
    bad_image: BadImagePolicy = "error"
    """What to do with a file that cannot be read: stop and name it, or list it with its reason and go on."""
    backend: Backend | Literal["auto"] = "auto"
    """Engine: auto measures the installed engines once on this machine and remembers the fastest."""
    precision: Precision | Literal["auto"] = "auto"
    """Precision to compute in: auto is what the file was made for, fp32 for a checkpoint."""
    threads: int | None = None
    """CPU threads of reading images and computing together; None: one for each CPU."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("no images given; name files, folders or patterns such as 'photos/*.jpg'")
        if self.csv and self.json:
            raise ValueError("--csv and --json exclude each other; give one of them")
        require(self.top_k >= 1, "top_k", self.top_k, "1 or more")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")

    @property
    def format(self) -> str:
        """csv, json or text."""
        if self.csv or self.json:
            return "csv" if self.csv else "json"
        ending = (self.output or "").rpartition(".")[2].lower()
        return ending if ending in ("csv", "json") else "text"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Form of the file."""

    format: Format | None = None
    """None: what the ending of the output says, .onnx, .xml (openvino) or .pt2 (torch-export)."""
    output_layer: Output = "logits"
    """logits; embedding, what enters the classifier; or features, the maps of stride 4, 8, 16 and 32."""
    pixels: bool = False
    """The file takes uint8 pixels (batch, height, width, 3) and normalises them itself."""
    channel_multiple: int | None = None
    """Pad channels with zeros to a multiple of this, which is exact and faster; 1: none. None: 8, and 1 with features,
    whose channels stay as they are."""
    verify: str | None = None
    """Folder of images to compare the file with PyTorch on; None: two photographs and noise, always the same."""
    overwrite: bool = False
    """Replace what is at the output."""

    def __post_init__(self) -> None:
        multiple = self.channel_multiple
        require(multiple is None or multiple >= 1, "channel_multiple", multiple, "1 or more, or None")
        with_features = self.output_layer == "features" and multiple not in (None, 1)
        require(not with_features, "channel_multiple", multiple, "1 with --output-layer features")

    def for_detector(self) -> dict[str, Any]:
        """Return the options that a detector has. OptionError where another is set."""
        for name in ("output_layer", "channel_multiple"):
            default = type(self).__dataclass_fields__[name].default
            require(getattr(self, name) == default, name, getattr(self, name), f"{default} for a detector")
        return {name: getattr(self, name) for name in ("format", "pixels", "verify", "overwrite")}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a network to a file that other programs run."""

    model: Annotated[str, positional("MODEL")]
    """A run folder or a checkpoint, of a classifier or a detector, a folder of `rexnet card` or hf://OWNER/NAME,
    published weights such as rexnet_100.nav_in1k, timm/NAME, or the name of a network; `rexnet models` lists them."""
    output: str
    """File to write."""
    weights: str | None = None
    """Of a network that is given by name: a file, or published weights such as rexnet_100.nav_in1k; None: random."""
    options: ExportOptions = ExportOptions()


BACKENDS: dict[str, Int8Backend] = {".onnx": "onnxruntime", ".xml": "openvino"}
"""Engine that a file is made and measured for, by its ending."""


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Make an int8 file of a trained classifier, if it keeps its accuracy."""

    checkpoint: Annotated[str, positional("MODEL")]
    """A run folder, a checkpoint or weights file, a folder of `rexnet card`, hf://OWNER/NAME or published weights."""
    data: str
    """As for rexnet validate: images of the training split calibrate, those of the validation split judge."""
    output: str
    """A file that ends in .onnx (for ONNX Runtime) or .xml (for OpenVINO)."""
    max_drop: float = 0.5
    """Points of top-1 that int8 may lose; nothing is written where it loses more."""
    measure: Literal["accuracy", "agreement"] = "accuracy"
    """agreement: for images without labels, count as right what the float network says."""
    calibration_images: int = 300
    """Images of the training split from which the range of every activation is measured."""
    batch_size: int = 16
    """Images per step, and the larger batch whose speed is measured."""
    rounds: int = 20
    """Rounds of the speed measurement, in which float32, bf16 and int8 take turns."""
    bad_image: BadImagePolicy = "error"
    threads: Threads = None

    def __post_init__(self) -> None:
        require(Path(self.output).suffix in BACKENDS, "output", self.output, "a name that ends in .onnx or .xml")
        require(0 <= self.max_drop <= 100, "max_drop", self.max_drop, "0 to 100 points")
        for name in ("calibration_images", "batch_size", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")

    @property
    def backend(self) -> Int8Backend:
        return BACKENDS[Path(self.output).suffix]


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure how fast networks run on this machine, in each engine."""

    models: Annotated[tuple[str, ...], positional("[MODEL ...]")] = ("rexnet_100",)
    """Names of `rexnet models` and timm/NAME (random weights), run folders, checkpoints, published weights, folders of
    `rexnet card`, or exported .onnx and .xml files."""
    backends: tuple[Backend, ...] = ("torch", "onnxruntime", "openvino")
    """Engines; compile is torch.compile, which takes minutes to start."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """What to compute in; an engine skips those it does not have."""
    batch: tuple[int, ...] = (1, 16)
    """Images per call."""
    image_size: int | None = None
    """Side of the images in pixels; None: what each network is meant for."""
    threads: int | None = None
    """CPU threads, the same for every engine; None leaves its choice."""
    rounds: int = 15
    """Turns of each; a turn is three calls, after one that is not counted."""
    memory: bool = True
    """Also start each in a process of its own, for its peak memory; some seconds each."""
    output: str | None = None
    """Write what was measured, the machine and its versions to this JSON file."""
    plot: str | None = None
    """Draw images a second to this name, with the ending .png and with .svg."""

    def __post_init__(self) -> None:
        for name in ("models", "backends", "precisions", "batch"):
            require(bool(getattr(self, name)), name, "empty", "one or more")
        require(all(batch >= 1 for batch in self.batch), "batch", self.batch, "1 or more")
        holds = self.image_size is None or self.image_size >= 1
        require(holds, "image_size", self.image_size, "1 or more, or None")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")
        require(self.rounds >= 1, "rounds", self.rounds, "1 or more")


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """Find the widest network that stays within a latency on this machine."""

    latency_ms: float
    """Longest time of a call, its median."""
    memory_mb: float | None = None
    """Most memory of a process that only runs the network, libraries included, in MiB."""
    family: str = "rexnet"
    """rexnet, rexnetr (channels in eights) or rexnet_lite (neither squeeze-excitation nor SiLU)."""
    size: int | None = None
    """Side of the images in pixels; None: 224, and 192 and 160 beside."""
    batch: int = 1
    """Images per call."""
    backend: Backend | Literal["auto"] = "auto"
    """The engine; auto: the installed one that is fastest at width 1.0."""
    precision: Precision = "fp32"
    """What to compute in."""
    threads: Threads = None
    num_classes: int = 1000
    """Outputs of the network."""
    stem_stride: int = 2
    """As for rexnet train."""
    rounds: int = 40
    """Calls that are counted for each network, after five that are not."""

    def __post_init__(self) -> None:
        from rexnet.models.variants import FAMILIES

        require(self.family in FAMILIES, "family", self.family, ", ".join(FAMILIES))
        for name in ("latency_ms", "memory_mb"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "above 0")
        for name in ("size", "threads", "batch", "num_classes"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "1 or more")
        require(self.stem_stride in (1, 2), "stem_stride", self.stem_stride, "1, 2")
        require(self.rounds >= 2, "rounds", self.rounds, "2 or more")
        if self.backend != "auto":
            Engine(backend=self.backend, precision=self.precision)
