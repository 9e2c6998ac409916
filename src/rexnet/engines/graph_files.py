"""Graph files, in the ONNX format and others, and their metadata: JSON under a single key."""

import io
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rexnet.data.decode import open_image
from rexnet.data.image_files import find_images
from rexnet.engines.config import ENDINGS, EXTRA
from rexnet.errors import MissingPackageError, WeightsError
from rexnet.text import printable, reason_of

KEY = "rexnet"
_EXTRA = f"/extra/{KEY}"
"""Path of the metadata in an archive of torch.export.save."""


def import_onnx() -> Any:
    """Return the package. Raise MissingPackageError if it is not installed."""
    return _import("onnx", what="an ONNX file")


def import_engine(package: Literal["onnxruntime", "openvino"]) -> Any:
    """Return the package. Raise MissingPackageError if it is not installed."""
    engine = _import(package, what="this engine")
    if package == "openvino":
        # The binding loads NumPy's interface with the first array; two threads that do so at once deadlock, one holding
        # Python's lock and the other the binding's.
        engine.Tensor(np.zeros(1, dtype=np.float32))
    return engine


def openvino_core() -> Any:
    """Return the process's only ov.Core. Raise MissingPackageError if OpenVINO is not installed.

    A core replaces its thread's alternate signal stack and later restores the previous one: if two cores end in the
    order in which they were created, the next signal, such as Ctrl-C or the end of a child process, crashes the
    process.
    """
    return _make_core(import_engine("openvino"))


@cache
def _make_core(openvino: Any) -> Any:
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # a file that is in use cannot be moved on every system
    return core


def _import(package: str, *, what: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingPackageError(what, package, EXTRA) from error


def trace(
    module: nn.Module,
    image: Tensor,
    *,
    opset: int,
    axes: Mapping[str, Mapping[int, str]],
    inputs: Sequence[str],
    outputs: Sequence[str] | None = None,
) -> bytes:
    """Return the content of an ONNX file by tracing `module` on `image`; `axes` are dynamic, by tensor name.

    Tracing may still fix a size: compare the outputs at other sizes.
    """
    import_onnx()
    content: Any = io.BytesIO()  # the tracing exporter accepts it, though its signature does not
    with warnings.catch_warnings(), torch.no_grad():
        # This exporter is deprecated, but takes a second where its successor takes many.
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
    """Write an onnx.ModelProto with `facts` as its metadata to .onnx, or to OpenVINO's .xml and .bin."""
    if path.suffix == ENDINGS["onnx"]:
        describe_onnx(graph, facts)
        path.write_bytes(graph.SerializeToString())
        return
    openvino = import_engine("openvino")
    model = openvino_core().read_model(graph.SerializeToString())
    model.set_rt_info(json.dumps(facts), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def describe_onnx(graph: Any, facts: dict[str, Any]) -> None:
    """Replace the facts in the metadata of an onnx.ModelProto."""
    others = {entry.key: entry.value for entry in graph.metadata_props if entry.key != KEY}
    import_onnx().helper.set_model_props(graph, {**others, KEY: json.dumps(facts)})


def describe_archive(facts: dict[str, Any]) -> dict[str, Any]:
    """Return `facts` as the extra_files of torch.export.save."""
    return {KEY: json.dumps(facts)}


def read_facts(path: str | PathLike[str]) -> dict[str, Any]:
    """Return the facts that `describe_onnx`, `write_graph` or `describe_archive` put into a file.

    Nothing in the file is run. Raise WeightsError for a file that cannot be read or has no facts.
    """
    path = Path(path)
    readers = {".onnx": _read_onnx, ".xml": _read_openvino, ".pt2": _read_archive}
    name = printable(path)
    if path.suffix not in readers:
        raise WeightsError(f"{name!r} is not an exported network; allowed: files that end in {', '.join(readers)}")
    if not path.is_file():
        raise WeightsError(f"there is no file {name!r}")
    try:
        text = readers[path.suffix](path)
        facts = None if text is None else json.loads(text)
    except MissingPackageError:
        raise
    except ValueError as error:
        raise WeightsError(f"{name!r} cannot be read as a {path.suffix} file; export it again") from error
    except OSError as error:
        raise WeightsError(f"{name!r} cannot be read: {reason_of(error)}") from error
    if not isinstance(facts, dict):
        raise WeightsError(f"{name!r} was not made by rexnet export: its metadata does not describe a network")
    return facts


def _read_onnx(path: Path) -> str | None:
    onnx = import_onnx()
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError("no ONNX") from error
    return next((entry.value for entry in graph.metadata_props if entry.key == KEY), None)


def _read_openvino(path: Path) -> str | None:
    try:
        model = openvino_core().read_model(path)
    except RuntimeError as error:
        raise ValueError("no OpenVINO") from error
    return model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None


def _read_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(_EXTRA)]
            return archive.read(names[0]).decode("utf-8") if names else None
    except zipfile.BadZipFile as error:
        raise ValueError("no archive") from error


COUNT = 5


def sample_images(source: str | None) -> list[Image.Image]:
    """Return COUNT upright RGB images, evenly spread over a folder or pattern, and repeated if there are fewer.

    Without a source, these are always scikit-learn's two photographs, their mirror images, and noise. Raise ValueError
    for a source without images, BadImageError for one that cannot be read.
    """
    if source is not None:
        files = find_images([source])
        return [open_image(files[index * len(files) // COUNT]) for index in range(COUNT)]
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images()["images"]]
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in photographs]
    noise = np.random.default_rng(0).integers(256, size=(256, 320, 3), dtype=np.uint8)
    return [*photographs, *mirrored, Image.fromarray(noise)]
