"""Files of graphs, in ONNX's format and others: what they say of themselves, one JSON text under one key, and how they
are run as their users run them.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rexnet.errors import WeightsError, require
from rexnet.text import printable, reason_of

Format = Literal["onnx", "openvino", "torch-export"]
ENDINGS: dict[Format, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch-export": ".pt2",
}
_REMOVED = {".pte": "ExecuTorch", ".mlpackage": "Core ML", ".engine": "TensorRT"}
"""Endings of formats that are no longer written."""
Run = Callable[[np.ndarray], list[np.ndarray]]
"""Images in, everything that a graph puts out."""
KEY = "rexnet"
_EXTRA = f"/extra/{KEY}"
"""Where torch.export.save puts it in its archive."""


def import_onnx() -> Any:
    """The package. ValueError with the pip line where it is missing."""
    try:
        import onnx
    except ImportError as error:
        raise ValueError("ONNX files need the package onnx: pip install 'rexnet[deploy]'") from error
    return onnx


def import_engine(package: Literal["onnxruntime", "openvino"]) -> Any:
    """The package. ValueError with the pip line where it is missing."""
    try:
        engine: Any = import_module(package)
    except ImportError as error:
        raise ValueError(f"{package} is not installed; pip install 'rexnet[deploy]'") from error
    if package == "openvino":
        # Its binding looks up NumPy's interface at the first array; two threads that do so at once wait for each other
        # for ever, one with Python's lock and one with the binding's.
        engine.Tensor(np.zeros(1, dtype=np.float32))
    return engine


def choose_format(path: str, asked: Format | None) -> Format:
    """`asked`, or what the ending of `path` says. OptionError where they differ or neither says."""
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
    require(asked in (None, guessed), "format", f"{asked} beside {printable(path)}", f"{guessed}, or another ending")
    return guessed


def traced(
    module: nn.Module,
    image: Tensor,
    *,
    opset: int,
    axes: Mapping[str, Mapping[int, str]],
    inputs: Sequence[str],
    outputs: Sequence[str] | None = None,
) -> bytes:
    """The content of an ONNX file by running `module` once on `image`; `axes` are those that shall stay open, by the
    name of the tensor.

    What the tracing fixes all the same, only a comparison on other sizes tells.
    """
    import_onnx()
    content: Any = io.BytesIO()  # the exporter that traces takes it, though its signature forgets it
    with warnings.catch_warnings(), torch.no_grad():
        # This exporter is deprecated, and needs a second where its successor needs many.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (image,),
            content,
            dynamo=False,
            opset_version=opset,
            input_names=list(inputs),
            output_names=None if outputs is None else list(outputs),
            dynamic_axes={name: dict(names) for name, names in axes.items()},
        )
    return content.getvalue()


def write_graph(graph: Any, facts: dict[str, Any], path: Path) -> None:
    """An onnx.ModelProto that says `facts` of itself: to .onnx, or as OpenVINO's .xml with its .bin beside it."""
    if path.suffix == ENDINGS["onnx"]:
        describe_onnx(graph, facts)
        path.write_bytes(graph.SerializeToString())
        return
    openvino = import_engine("openvino")
    model = openvino.Core().read_model(graph.SerializeToString())
    model.set_rt_info(json.dumps(facts), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def run_graph(path: Path, *, threads: int | None = None) -> Run:
    """A .onnx file in ONNX Runtime or a .xml file in OpenVINO, on the CPU; `threads` None leaves the engine's choice.
    ValueError with the pip line where the engine is missing."""
    run = run_in_onnxruntime if path.suffix == ENDINGS["onnx"] else run_in_openvino
    return run(path, threads=threads)


def run_in_onnxruntime(path: Path, *, threads: int | None = None) -> Run:
    """An ONNX file on the CPU. ValueError with the pip line where ONNX Runtime is missing."""
    onnxruntime = import_engine("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    session: Any = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def run_in_openvino(path: Path, *, threads: int | None = None) -> Run:
    """An OpenVINO or ONNX file on the CPU, in float32 though the CPU may have bfloat16."""
    core = import_engine("openvino").Core()
    core.set_property({"ENABLE_MMAP": False})  # a file that is in use cannot be moved everywhere
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    return lambda images: [found.copy() for found in compiled([images]).values()]


def describe_onnx(graph: Any, facts: dict[str, Any]) -> None:
    """Puts `facts` into an onnx.ModelProto, in place of what it said before."""
    others = {entry.key: entry.value for entry in graph.metadata_props if entry.key != KEY}
    import_onnx().helper.set_model_props(graph, {**others, KEY: json.dumps(facts)})


def describe_archive(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` as the extra_files of torch.export.save."""
    return {KEY: json.dumps(facts)}


def read_facts(path: str | PathLike[str]) -> dict[str, Any]:
    """What `describe_onnx` and `write_graph` were given, and of a .pt2 what lies in its archive under KEY.

    Nothing in the file is run. WeightsError, one sentence, for a file that cannot be read or says nothing.
    """
    path = Path(path)
    readers = {".onnx": _of_onnx, ".xml": _of_openvino, ".pt2": _of_archive}
    name = printable(path)
    if path.suffix not in readers:
        raise WeightsError(f"{name!r} is no exported network; allowed: files that end in {', '.join(readers)}")
    if not path.is_file():
        raise WeightsError(f"there is no file {name!r}")
    try:
        text = readers[path.suffix](path)
        facts = None if text is None else json.loads(text)
    except ValueError as error:
        if "pip install" in str(error):
            raise
        raise WeightsError(f"{name!r} cannot be read as a {path.suffix} file; export it again") from error
    except OSError as error:
        raise WeightsError(f"{name!r} cannot be read: {reason_of(error)}") from error
    if not isinstance(facts, dict):
        raise WeightsError(f"{name!r} was not made by rexnet export: it does not say what its network is")
    return facts


def _of_onnx(path: Path) -> str | None:
    onnx = import_onnx()
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError("no ONNX") from error
    return next((entry.value for entry in graph.metadata_props if entry.key == KEY), None)


def _of_openvino(path: Path) -> str | None:
    openvino = import_engine("openvino")
    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        raise ValueError("no OpenVINO") from error
    return model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None


def _of_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(_EXTRA)]
            return archive.read(names[0]).decode("utf-8") if names else None
    except zipfile.BadZipFile as error:
        raise ValueError("no archive") from error
