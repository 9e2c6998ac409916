"""Trained classifiers, in exported files and in memory, which can be opened in an engine."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rexnet._version import __version__
from rexnet.data.preprocess import Preprocess
from rexnet.engines.backends import Network, list_backends, open_graph, open_network
from rexnet.engines.config import FILE_BACKENDS, INT8_PRECISIONS, Backend, Engine, Output, Precision
from rexnet.engines.graph_files import read_facts
from rexnet.engines.native.network import NativeNetwork
from rexnet.engines.onnx_graph import read_network
from rexnet.errors import WeightsError, require
from rexnet.models.config import RexNetConfig
from rexnet.models.rexnet import RexNet
from rexnet.text import printable, quantity
from rexnet.training import checkpoint

FORMAT = 1
FilePrecision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class EngineCheck:
    """Accuracy of an int8 file in one engine, measured by `rexnet quantize`: the worse of batch 1 and a larger
    batch."""

    right: bool
    percent: float
    """Percentage of images predicted correctly."""
    float_percent: float
    """Percentage of the same images that the float32 network predicts correctly."""


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """Description of an exported classifier."""

    classes: tuple[str, ...]
    """Class names in the order of the logits; empty if unknown."""
    preprocess: Preprocess
    config: RexNetConfig | str
    """Config before channel padding; for a timm network, its MODEL, such as timm/resnet18."""
    output: Output = "logits"
    pixels: bool = False
    """Takes uint8 (B, H, W, 3) and normalises it in the graph."""
    precision: FilePrecision = "fp32"
    """Precision of the weights."""
    engines: dict[Backend, EngineCheck] | None = None
    """Checks of an int8 file by engine; float files are written only if they are correct in every engine."""
    versions: dict[str, str] = field(default_factory=lambda: {"rexnet": __version__, "torch": str(torch.__version__)})
    """Versions of the packages that wrote the file."""

    def __post_init__(self) -> None:
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(f"{quantity(len(self.classes), 'class name')} for {quantity(self.num_classes, 'class')}")
        for name, allowed in (("output", get_args(Output)), ("precision", get_args(FilePrecision))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

    @property
    def name(self) -> str:
        """Return the name of the network."""
        return self.config if isinstance(self.config, str) else self.config.name

    @property
    def in_channels(self) -> int:
        return 3 if isinstance(self.config, str) else self.config.in_channels

    @property
    def num_classes(self) -> int:
        return len(self.classes) if isinstance(self.config, str) else self.config.num_classes

    @property
    def output_stride(self) -> int:
        return 32 if isinstance(self.config, str) else self.config.output_stride

    def backends(self, suffix: str) -> tuple[Backend, ...]:
        """Return the engines that run a file with this ending correctly; for an int8 file without checks, only the
        engine of its format."""
        known, checks = self._openable_in(suffix), self.engines
        if self.precision != "int8":
            return known
        return known[:1] if checks is None else tuple(name for name in known if name in checks and checks[name].right)

    def _openable_in(self, suffix: str) -> tuple[Backend, ...]:
        known = FILE_BACKENDS.get(suffix, ())
        readable = suffix == ".onnx" and self.precision != "bf16" and self.output != "features"
        return (*known, "native") if readable and isinstance(self.config, RexNetConfig) else known

    def refuse_wrong(self, backend: Backend, path: str | PathLike[str]) -> None:
        """Raise WeightsError if `backend` is not in `backends`."""
        path = Path(path)
        if backend in (right := self.backends(path.suffix)):
            return
        name, allowed = printable(path), " or ".join(right)
        if backend not in self._openable_in(path.suffix):
            raise WeightsError(f"{backend} cannot open {name!r}; allowed: {allowed}")
        if self.engines is None or backend not in self.engines:
            raise WeightsError(f"the int8 file {name!r} was not checked in {backend}; allowed: {allowed}")
        check = self.engines[backend]
        raise WeightsError(
            f"{name!r} is wrong in {backend}: in `rexnet quantize` it predicted {check.percent:.1f} % of the images "
            f"correctly, and float32 {check.float_percent:.1f} %; allowed: {allowed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a dict for JSON; `from_dict` reads it back."""
        config = self.config if isinstance(self.config, str) else self.config.to_dict()
        nested = {"config": config, "preprocess": self.preprocess.to_dict()}
        return {"format": FORMAT, "task": "classification", **asdict(self), "classes": list(self.classes), **nested}

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> "ExportedFile":
        """Read the result of `to_dict`. Raise KeyError, TypeError or ValueError for anything else."""
        if facts["format"] != FORMAT or facts["task"] != "classification":
            raise ValueError(f"it holds format {facts['format']} of {facts['task']}")
        values = {key: value for key, value in facts.items() if key not in ("format", "task")}
        if not all(isinstance(name, str) for name in values["classes"]):
            raise ValueError("class names are not strings")
        config, engines = values["config"], values.get("engines")
        return cls(
            **{
                **values,
                "classes": tuple(values["classes"]),
                "preprocess": Preprocess.from_dict(values["preprocess"]),
                "config": config if isinstance(config, str) else RexNetConfig.from_dict(config),
                "engines": engines and {name: EngineCheck(**check) for name, check in engines.items()},
            }
        )


def read_exported(path: str | PathLike[str]) -> ExportedFile:
    """Return the description in a .onnx, .xml (OpenVINO) or .pt2 (torch.export) file of `rexnet export` or `rexnet
    quantize`.

    No code in the file is run. Raise WeightsError for a file that cannot be used.
    """
    facts = read_facts(path)
    if facts.get("task") == checkpoint.DETECTION:
        raise WeightsError(f"{fspath(path)!r} holds a detector; a classifier is needed here")
    try:
        return ExportedFile.from_dict(facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{fspath(path)!r} is inconsistent ({type(error).__name__}: {reason})") from error


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Classes and preprocessing of a classifier, and the function that opens it in an engine."""

    classes: tuple[str, ...]
    preprocess: Preprocess
    config: RexNetConfig | str
    """Config of a RexNet; for another network, its layers as text."""
    backends: tuple[Backend, ...]
    """Engines that run the classifier correctly."""
    open: Callable[..., Network]
    """Function that opens the classifier in an engine on a `device`; it can be pickled if the network can. It raises
    ValueError for an engine that is not installed or cannot open the classifier, or for an unsupported device."""
    pixels: bool = False
    """Takes uint8 (B, S, S, 3) instead of preprocessed images."""
    precision: Precision = "fp32"
    """Default precision of the computation."""
    int8: bool = False
    """True for an int8 file, whose probabilities differ slightly between engines."""
    kind: str = "checkpoint"
    model: nn.Module | None = None
    """Layers of the network; None for a graph."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape of an input image."""
        side = self.preprocess.image_size_px
        return (side, side, 3) if self.pixels else (3, side, side)

    def is_exact(self, engine: Engine) -> bool:
        """Return whether the probabilities in this engine equal those in every other exact engine, up to rounding."""
        return engine.precision == "fp32" and not self.int8

    def sample(self, count: int) -> Tensor:
        """Return `count` noise images as input, always the same."""
        random = torch.Generator().manual_seed(0)
        shape = (count, *self.image_shape)
        if self.pixels:
            return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
        return torch.randn(shape, generator=random)


def of_model(
    model: nn.Module, *, classes: Sequence[str] | None = None, preprocess: Preprocess | None = None
) -> Classifier:
    """Return the classifier of a network in memory, which is not changed. `classes` and `preprocess` None: the
    attributes that `rexnet.load` sets. Raise ValueError unless there is a name for each class."""
    found: Any = getattr(model, "classes", None) if classes is None else classes
    preprocess = getattr(model, "preprocess", None) if preprocess is None else preprocess
    if found is None or preprocess is None:
        raise ValueError(
            "the network does not have the attributes `classes` and `preprocess` that `rexnet.load` sets; give both"
        )
    if (count := getattr(model, "num_classes", len(found))) != len(found):
        raise ValueError(f"{quantity(len(found), 'class name')} given for a model of {quantity(count, 'class')}")

    return Classifier(
        classes=tuple(found),
        preprocess=preprocess,
        config=model.config if isinstance(model, RexNet) else str(model),
        backends=list_backends(model),
        open=partial(open_network, model, size_px=preprocess.image_size_px),
        model=model,
    )


def of_exported(path: str | PathLike[str]) -> Classifier:
    """Return the classifier in a .onnx or .xml file of `rexnet export`. No code in it is run.

    Raise WeightsError for a file that cannot be used.
    """
    suffix = Path(path).suffix
    exported = read_exported(path)
    if suffix not in FILE_BACKENDS:
        # PyTorch's reader unpickles the archive and evaluates its expressions.
        raise WeightsError(
            f"{fspath(path)!r} can run arbitrary code when PyTorch opens it; allowed: the checkpoint it was made "
            f"from, or the {' and '.join(FILE_BACKENDS)} files of `rexnet export`"
        )
    if exported.output != "logits":
        raise WeightsError(f"{fspath(path)!r} outputs {exported.output}; predictions need a file that outputs logits")

    return Classifier(
        classes=exported.classes or tuple(map(str, range(exported.num_classes))),
        preprocess=exported.preprocess,
        config=exported.config,
        backends=exported.backends(suffix),
        open=partial(open_exported, exported, fspath(path)),
        pixels=exported.pixels,
        int8=exported.precision == "int8",
        precision="bf16" if exported.precision == "bf16" else "fp32",
        kind=f"{suffix} {exported.precision}",
    )


def open_exported(exported: ExportedFile, path: str, engine: Engine, *, device: torch.device | str = "cpu") -> Network:
    """Return the function in an engine that computes the output of a .onnx or .xml file. Raise WeightsError for an
    engine or a device that does not run it."""
    exported.refuse_wrong(engine.backend, path)
    if torch.device(device).type != "cpu":
        suffix = Path(path).suffix
        raise WeightsError(f"{engine.backend} runs {suffix} files on the CPU, but the device is {device}")
    return open_native(exported, path, engine) if engine.backend == "native" else open_graph(path, engine)


def open_native(exported: ExportedFile, path: str | Path, engine: Engine) -> Network:
    """Return the function in the native engine, also for an int8 file that was not checked there. Raise OptionError for
    a precision that it does not compute."""
    assert isinstance(exported.config, RexNetConfig)
    read, precision = read_network(path, exported.config, output=exported.output), engine.precision
    if exported.precision == "int8":
        require(precision in INT8_PRECISIONS["native"], "precision", precision, "auto for an int8 file in native")
        precision = "int8"
    network = NativeNetwork(read.model, precision=precision, threads=engine.threads_of_a_call, scales=read.scales)
    return partial(_run_on_pixels, network, exported.preprocess) if exported.pixels else network


def _run_on_pixels(network: Network, preprocess: Preprocess, images: Tensor) -> Tensor:
    """Call the network on uint8 (B, H, W, 3)."""
    return network(preprocess.normalise(images.permute(0, 3, 1, 2).float()))
