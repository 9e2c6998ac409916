"""Options of the deployment commands. A field is an option, and the text under it is its help."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rexnet.data.datasets import open_dataset
from rexnet.data.decode import BadImagePolicy
from rexnet.data.image_files import require_images
from rexnet.data.preprocess import require_image_size
from rexnet.engines.config import EXTRA, Backend, Engine, Format, Output, Precision, check_graph_output
from rexnet.errors import require, require_at_least, require_package
from rexnet.files import check_output_file
from rexnet.models.variants import FAMILIES
from rexnet.options import Device, Threads, positional
from rexnet.references import (
    BENCHABLE,
    EXPORTABLE,
    PREDICTABLE,
    PRETRAINED,
    QUANTIZABLE,
    SAVED,
    refuse_swapped,
    resolve,
)
from rexnet.training.config import MeasureOptions

Int8Backend = Literal["openvino", "onnxruntime"]


@dataclass(frozen=True, kw_only=True)
class ValidateConfig(MeasureOptions):
    """Measure a trained classifier on labelled images."""

    checkpoint: Annotated[str, positional("MODEL")]
    """A run folder or checkpoint of `rexnet train`, published weights such as rexnet_100.nav_in1k, a folder of `rexnet
    card`, hf://OWNER/NAME, timm/NAME, or a weights file."""
    data: Annotated[str, positional("DATA")]
    """A folder of class folders, a folder with val|valid|validation|test/, digits, torchvision/NAME, a folder of tars
    or its URL, or hfds/NAME."""
    model: str | None = None
    """Network of a weights file that does not name it: a name, a JSON file or timm/NAME."""
    split: Literal["val", "train"] = "val"
    """Split to measure on, if the data has both or was split to train MODEL."""
    output: str | None = None
    """Also write the result, with every class, to this JSON file."""
    backend: Backend = "torch"
    """Engine to run the network in."""
    precision: Precision = "fp32"
    """Precision of the computation in an engine other than torch, whose option is --amp."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Engine(backend=self.backend, precision=self.precision)
        if self.backend == "torch":
            require(self.precision == "fp32", "precision", self.precision, "fp32 with torch, or --amp bf16")
        else:
            require(self.amp == "off", "amp", self.amp, f"off with {self.backend}, or --precision bf16")

    def check(self) -> None:
        """Raise ValueError for a model, data or output that cannot be used."""
        check_output_file(self.output)
        refuse_swapped(self.checkpoint, self.data, command="validate")
        resolve(self.checkpoint, allowed=PRETRAINED).require_weights()
        open_dataset(self.data)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict the classes of images."""

    checkpoint: Annotated[str, positional("MODEL")]
    """A run folder or checkpoint of `rexnet train`, published weights such as rexnet_100.nav_in1k, a .onnx or .xml file
    of `rexnet export`, a folder of `rexnet card`, hf://OWNER/NAME, timm/NAME, or a weights file."""
    images: Annotated[tuple[str, ...], positional("IMAGE|FOLDER|PATTERN ...")]
    """Image files, folders (with all subfolders) or patterns such as 'photos/*.jpg'."""
    model: str | None = None
    """Network of a weights file that does not name it: a name, a JSON file or timm/NAME."""
    top_k: int = 5
    """Number of classes to list per image."""
    csv: bool = False
    """Print CSV instead of a table."""
    json: bool = False
    """Print JSON instead of a table."""
    output: str | None = None
    """Write to this file instead of the terminal; its ending, .csv or .json, selects the format."""
    bad_image: BadImagePolicy = "error"
    """Handling of unreadable files: stop at the first (error), or list them with the reason (skip)."""
    backend: Backend | Literal["auto"] = "auto"
    """Engine to run the network in; auto measures the installed engines once on this machine and remembers the
    fastest."""
    precision: Precision | Literal["auto"] = "auto"
    """Precision of the computation; auto: the precision of the file, fp32 for a checkpoint."""
    threads: int | None = None
    """CPU threads for reading images and computing; None: one per CPU."""
    device: Device = "auto"

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("no images given; name files, folders or patterns such as 'photos/*.jpg'")
        if self.csv and self.json:
            raise ValueError("--csv and --json exclude each other; give one of them")
        require_at_least(self, 1, "top_k", "threads")

    def check(self) -> None:
        """Raise ValueError for a model, images or an output that cannot be used."""
        check_output_file(self.output)
        refuse_swapped(self.checkpoint, self.images[-1], command="predict")
        require_images(self.images)
        resolve(self.checkpoint, allowed=PREDICTABLE).require_weights()

    @property
    def format(self) -> str:
        """Return the output format: csv, json or text."""
        if self.csv or self.json:
            return "csv" if self.csv else "json"
        ending = (self.output or "").rpartition(".")[2].lower()
        return ending if ending in ("csv", "json") else "text"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an exported file."""

    format: Format | None = None
    """Format of the file; None: by the ending of the output, .onnx, .xml (openvino) or .pt2 (torch-export)."""
    output_layer: Output = "logits"
    """Output of the network: logits; embedding, the classifier's input; or features, the maps of strides 4, 8, 16 and
    32."""
    pixels: bool = False
    """Make the file take uint8 pixels (batch, height, width, 3) and normalise them in the graph."""
    channel_multiple: int | None = None
    """Pad channels with zeros to a multiple of this number, which is exact and faster; 1: no padding. None: 8, or 1 for
    features, whose channels must not change."""
    verify: str | None = None
    """Folder of images on which the file is compared with PyTorch; None: two photographs and noise, always the same."""
    overwrite: bool = False
    """Replace an existing output."""

    def __post_init__(self) -> None:
        multiple = self.channel_multiple
        require(multiple is None or multiple >= 1, "channel_multiple", multiple, "1 or more, or None")
        with_features = self.output_layer == "features" and multiple not in (None, 1)
        require(not with_features, "channel_multiple", multiple, "1 with --output-layer features")

    def for_detector(self) -> dict[str, Any]:
        """Return the options that apply to a detector. Raise OptionError if another option is set."""
        for name in ("output_layer", "channel_multiple"):
            default = type(self).__dataclass_fields__[name].default
            require(getattr(self, name) == default, name, getattr(self, name), f"{default} for a detector")
        return {name: getattr(self, name) for name in ("format", "pixels", "verify", "overwrite")}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a network to a file for other programs."""

    model: Annotated[str, positional("MODEL")]
    """A run folder or checkpoint of a classifier or a detector, a folder of `rexnet card`, hf://OWNER/NAME, published
    weights such as rexnet_100.nav_in1k, timm/NAME, or the name of a network; `rexnet models` lists the names."""
    output: str
    """Path of the file to write."""
    weights: str | None = None
    """Weights of a network given by name: a file, or published weights such as rexnet_100.nav_in1k; None: random
    weights."""
    options: ExportOptions = ExportOptions()

    def check(self) -> None:
        """Raise ValueError for a model or an output that cannot be used."""
        check_graph_output(Path(self.output), self.options.format, overwrite=self.options.overwrite)
        resolve(self.model, allowed=EXPORTABLE)
        if self.weights is not None:
            resolve(self.weights, allowed=SAVED, option="--weights")


BACKENDS: dict[str, Int8Backend] = {".onnx": "onnxruntime", ".xml": "openvino"}
"""Engine, by the file's ending, for which the file is made and measured."""


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Quantise a trained classifier to an int8 file, if it keeps its accuracy."""

    checkpoint: Annotated[str, positional("MODEL")]
    """A run folder, a checkpoint or weights file, a folder of `rexnet card`, hf://OWNER/NAME or published weights."""
    data: str
    """Data as for `rexnet validate`: the training split is used to calibrate, the validation split to measure
    accuracy."""
    output: str
    """File to write, ending in .onnx (for ONNX Runtime) or .xml (for OpenVINO)."""
    max_drop: float = 0.5
    """Maximum drop of top-1 in percentage points; no file is written if int8 loses more."""
    measure: Literal["accuracy", "agreement"] = "accuracy"
    """Reference of the comparison: the labels (accuracy) or, for images without labels, the float network's predictions
    (agreement)."""
    calibration_images: int = 300
    """Number of calibration images, on which the range of every activation is measured."""
    batch_size: int = 16
    """Images per step; speed is measured at this batch size and at 1."""
    rounds: int = 20
    """Rounds of the speed measurement, in which float32, bf16 and int8 take turns."""
    bad_image: BadImagePolicy = "error"
    threads: Threads = None

    def __post_init__(self) -> None:
        require(Path(self.output).suffix in BACKENDS, "output", self.output, "a name that ends in .onnx or .xml")
        require(0 <= self.max_drop <= 100, "max_drop", self.max_drop, "0 to 100 points")
        require_at_least(self, 1, "calibration_images", "batch_size", "rounds", "threads")

    def check(self) -> None:
        """Raise ValueError for a model, data or output that cannot be used, and for a missing package."""
        for package in ("onnx", "onnxruntime"):
            require_package("rexnet quantize", package, EXTRA)
        check_output_file(self.output)
        resolve(self.checkpoint, allowed=QUANTIZABLE)
        if not os.path.exists(self.data):
            open_dataset(self.data)

    @property
    def backend(self) -> Int8Backend:
        return BACKENDS[Path(self.output).suffix]


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure the speed of networks on this machine, in each engine."""

    models: Annotated[tuple[str, ...], positional("[MODEL ...]")] = ("rexnet_100",)
    """Names listed by `rexnet models` or timm/NAME (random weights), run folders, checkpoints, published weights,
    folders of `rexnet card`, or exported .onnx and .xml files."""
    backends: tuple[Backend, ...] = ("torch", "onnxruntime", "openvino", "native")
    """Engines to measure; compile is torch.compile, which takes minutes to start."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Precisions to measure; each engine skips those that it does not support."""
    batch: tuple[int, ...] = (1, 16)
    """Images per call."""
    image_size: int | None = None
    """Side of the images in pixels; None: each network's own."""
    threads: int | None = None
    """CPU threads of every engine; None: the engine's default."""
    rounds: int = 15
    """Rounds of measurement, each with one warm-up call and three measured calls."""
    memory: bool = True
    """Also report the peak memory of each network's process."""
    output: str | None = None
    """Write the measurements, the machine and the versions to this JSON file."""
    plot: str | None = None
    """Plot images per second to this path, once as .png and once as .svg."""

    def __post_init__(self) -> None:
        for name in ("models", "backends", "precisions", "batch"):
            require(bool(getattr(self, name)), name, "empty", "one or more")
        require(all(batch >= 1 for batch in self.batch), "batch", self.batch, "1 or more")
        require_image_size(self)
        require_at_least(self, 1, "threads", "rounds")

    def check(self) -> None:
        """Raise ValueError for a model or an output that cannot be used."""
        check_output_file(self.output)
        check_output_file(self.plot, option="--plot")
        for model in self.models:
            resolve(model, allowed=BENCHABLE)


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """Find the widest network within a latency limit on this machine."""

    latency_ms: float
    """Maximum of the median time per call, in milliseconds."""
    memory_mb: float | None = None
    """Maximum memory, libraries included, of a process that only runs the network, in MiB."""
    family: str = "rexnet"
    """Family of networks: rexnet, rexnetr (channels in multiples of 8) or rexnet_lite (without squeeze-excitation and
    SiLU)."""
    size: int | None = None
    """Side of the images in pixels; None: 224, 192 and 160."""
    batch: int = 1
    """Images per call."""
    backend: Backend | Literal["auto"] = "auto"
    """Engine to measure in; auto: the installed one that is fastest at width 1.0."""
    precision: Precision = "fp32"
    """Precision of the computation."""
    threads: Threads = None
    num_classes: int = 1000
    """Number of the network's classes."""
    stem_stride: int = 2
    """Stride of the stem, as for rexnet train."""
    rounds: int = 40
    """Measured calls per network, after five warm-up calls."""

    def __post_init__(self) -> None:
        require(self.family in FAMILIES, "family", self.family, ", ".join(FAMILIES))
        require(self.latency_ms > 0, "latency_ms", self.latency_ms, "above 0")
        require(self.memory_mb is None or self.memory_mb > 0, "memory_mb", self.memory_mb, "above 0, or None")
        require_image_size(self, "size")
        require_at_least(self, 1, "threads", "batch", "num_classes")
        require(self.stem_stride in (1, 2), "stem_stride", self.stem_stride, "1, 2")
        require_at_least(self, 2, "rounds")
        if self.backend != "auto":
            Engine(backend=self.backend, precision=self.precision)
