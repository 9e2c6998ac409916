"""What files of graphs, ONNX, OpenVINO and torch.export, say of themselves: one JSON text under one key."""

import json
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

from rexnet.data.decode import printable
from rexnet.data.wording import reason_of
from rexnet.models.weight_files import WeightsError

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


def import_openvino() -> Any:
    """The package. ValueError with the pip line where it is missing."""
    try:
        import openvino
    except ImportError as error:
        raise ValueError("OpenVINO is not installed; pip install 'rexnet[deploy]'") from error
    return openvino


def describe_onnx(graph: Any, facts: dict[str, Any]) -> None:
    """Puts `facts` into an onnx.ModelProto, in place of what it said before."""
    others = {entry.key: entry.value for entry in graph.metadata_props if entry.key != KEY}
    import_onnx().helper.set_model_props(graph, {**others, KEY: json.dumps(facts)})


def describe_openvino(model: Any, facts: dict[str, Any]) -> None:
    """Puts `facts` into an openvino.Model, in place of what it said before."""
    model.set_rt_info(json.dumps(facts), [KEY])


def read_facts(path: str | PathLike[str]) -> dict[str, Any]:
    """What `describe_onnx` and `describe_openvino` were given, and of a .pt2 what lies in its archive under KEY.

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
    openvino = import_openvino()
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
