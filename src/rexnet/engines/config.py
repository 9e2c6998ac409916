"""Names, precisions and file extensions of the engines, importable without them, as `--help` needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rexnet.errors import require, require_package
from rexnet.files import check_output_file, check_replaceable
from rexnet.options import Threads
from rexnet.text import printable

Backend = Literal["torch", "compile", "onnxruntime", "openvino", "native"]
Precision = Literal["fp32", "bf16"]


PRECISIONS: dict[Backend, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16"),
    "compile": ("fp32", "bf16"),
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
    "native": ("fp32", "bf16"),
}
"""Precisions of each engine on a CPU; of an int8 file, those of what it leaves in float."""
INT8_PRECISIONS: dict[Backend, tuple[Precision, ...]] = {**PRECISIONS, "native": ("fp32",)}
"""The same for int8 files: in the native engine the file alone decides."""
CPU_BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino", "native")
"""Engines that run on the CPU only."""
FILE_BACKENDS: dict[str, tuple[Backend, ...]] = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}
"""Engines that open a graph file, by its extension; the first is the format's own."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Engine, precision and number of threads."""

    backend: Backend = "torch"
    precision: Precision = "fp32"
    threads: Threads = None
    calls: int = 1
    """Concurrent calls, which share the threads."""

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend is {self.backend!r}; allowed: {', '.join(get_args(Backend))}")
        if self.precision not in PRECISIONS[self.backend]:
            allowed = " or ".join(PRECISIONS[self.backend])
            raise ValueError(f"precision is {self.precision!r}; {self.backend} computes in {allowed} here")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; allowed: 1 or more, or None")
        if not 1 <= self.calls <= (self.threads or 1):
            raise ValueError(f"calls is {self.calls}; allowed: 1 to the number of threads")

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"

    @property
    def threads_of_a_call(self) -> int | None:
        """Threads; None: the engine's choice."""
        return self.threads and self.threads // self.calls


Format = Literal["onnx", "openvino", "torch-export"]
Output = Literal["logits", "embedding", "features"]

ENDINGS: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
EXTRA = "'rexnet[deploy]'"
_WRITERS: dict[Format, tuple[str, str]] = {
    "onnx": ("an ONNX file", "onnx"),
    "openvino": ("a .xml file", "openvino"),
}
"""Packages that write a format, and what needs them."""
_REMOVED = {".pte": "ExecuTorch", ".mlpackage": "Core ML", ".engine": "TensorRT"}
"""Extensions of formats that are no longer written."""


def choose_format(path: str, asked: Format | None) -> Format:
    """Return the format that the extension of `path` means. Raise OptionError for another extension, or if `asked`
    differs."""
    endings: dict[str, Format] = {ending: name for name, ending in ENDINGS.items()}
    guessed = endings.get(Path(path).suffix)
    suffix = Path(path).suffix
    if suffix in _REMOVED:
        reads = ".pt2" if suffix == ".pte" else ".onnx or .pt2"
        allowed = f"names that end in .onnx, .xml or .pt2; {_REMOVED[suffix]}'s own tools read {reads}"
        require(False, "output", printable(path), allowed)
    known = ", ".join(f"{ending} ({name})" for ending, name in endings.items())
    require(guessed is not None, "output", printable(path), f"names that end in {known}")
    assert guessed is not None
    require(asked in (None, guessed), "format", f"{asked} with {printable(path)}", f"{guessed}, or another extension")
    return guessed


def list_parts(path: Path) -> tuple[Path, ...]:
    """Return the files of a model: the one given, and the separate weights of an OpenVINO graph."""
    return (path, path.with_suffix(".bin")) if path.suffix == ENDINGS["openvino"] else (path,)


def check_graph_output(path: Path, asked: Format | None, *, overwrite: bool) -> Format:
    """Return the format to write, as `choose_format` does. Raise ValueError for a path that cannot be written, and for
    a missing package."""
    found = choose_format(str(path), asked)
    if found in _WRITERS:
        require_package(*_WRITERS[found], EXTRA)
    check_output_file(path)
    check_replaceable(*list_parts(path), overwrite=overwrite)
    return found
