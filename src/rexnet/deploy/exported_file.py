"""What an exported classifier says of itself, so that its file is enough to use it."""

from dataclasses import asdict, dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from rexnet._version import __version__
from rexnet.data.preprocess import Preprocess
from rexnet.engines.config import FILE_BACKENDS, Backend, Output
from rexnet.engines.graph_files import read_facts
from rexnet.errors import WeightsError
from rexnet.models.config import RexNetConfig
from rexnet.text import printable
from rexnet.training import checkpoint

FORMAT = 1
FilePrecision = Literal["fp32", "bf16", "int8"]


def _versions() -> dict[str, str]:
    return {"rexnet": __version__, "torch": str(torch.__version__)}


@dataclass(frozen=True, kw_only=True)
class EngineCheck:
    """How `rexnet quantize` found an int8 file in one engine, at the worse of batch 1 and a larger batch."""

    right: bool
    percent: float
    """Images predicted rightly."""
    float_percent: float
    """By the float32 network, of the same images."""


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """The description of a graph."""

    classes: tuple[str, ...]
    """Names in the order of the logits; empty where they are unknown."""
    preprocess: Preprocess
    config: RexNetConfig | str
    """Of the network before channels were padded; of one that is not a RexNet its MODEL, as timm/resnet18."""
    output: Output = "logits"
    pixels: bool = False
    """The graph takes uint8 (B, H, W, 3) and normalises them itself."""
    precision: FilePrecision = "fp32"
    """Of the weights."""
    engines: dict[Backend, EngineCheck] | None = None
    """Of an int8 file; float files get their names only if they are right in every engine."""
    versions: dict[str, str] = field(default_factory=_versions)
    """Of what made the file."""

    def __post_init__(self) -> None:
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(f"{len(self.classes)} class names for {self.num_classes} classes")
        for name, allowed in (("output", get_args(Output)), ("precision", get_args(FilePrecision))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

    @property
    def name(self) -> str:
        """Name of the network."""
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
        """Return the engines that run the file rightly, by its ending; of an int8 file without checks its own."""
        known = FILE_BACKENDS.get(suffix, ())
        if self.precision != "int8":
            return known
        return known[:1] if self.engines is None else tuple(name for name in known if self.engines[name].right)

    def refuse_wrong(self, backend: Backend, path: str | PathLike[str]) -> None:
        """Raise WeightsError, one sentence, for an engine that is not in `backends`."""
        path = Path(path)
        if backend in (right := self.backends(path.suffix)):
            return
        name, allowed = printable(path), " or ".join(right)
        if backend not in FILE_BACKENDS.get(path.suffix, ()):
            raise WeightsError(f"{backend} cannot open {name!r}; allowed: {allowed}")
        if self.engines is None:
            raise WeightsError(f"nobody compared the int8 file {name!r} in {backend} with float32; allowed: {allowed}")
        check = self.engines[backend]
        raise WeightsError(
            f"{name!r} is wrong in {backend}: it predicted {check.percent:.1f} % of the images rightly in rexnet "
            f"quantize, float32 {check.float_percent:.1f} %; allowed: {allowed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        config = self.config if isinstance(self.config, str) else self.config.to_dict()
        nested = {"config": config, "preprocess": self.preprocess.to_dict()}
        return {"format": FORMAT, "task": "classification", **asdict(self), "classes": list(self.classes), **nested}

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> "ExportedFile":
        """Raises KeyError, TypeError or ValueError for what `to_dict` does not give."""
        if facts["format"] != FORMAT or facts["task"] != "classification":
            raise ValueError(f"it holds format {facts['format']} of {facts['task']}")
        values = {key: value for key, value in facts.items() if key not in ("format", "task")}
        if not all(isinstance(name, str) for name in values["classes"]):
            raise ValueError("class names are not texts")
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
    """The description in a .onnx, .xml (OpenVINO) or .pt2 (torch.export) file of `rexnet export` or `rexnet quantize`.

    Nothing in the file is run. WeightsError, one sentence, for a file that cannot be used.
    """
    facts = read_facts(path)
    if facts.get("task") == checkpoint.DETECTION:
        raise WeightsError(f"{fspath(path)!r} holds a detector; a classifier is needed here")
    try:
        return ExportedFile.from_dict(facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{fspath(path)!r} contradicts itself ({type(error).__name__}: {reason})") from error
