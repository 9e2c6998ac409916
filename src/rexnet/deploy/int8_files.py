"""int8 graphs as files that say what they are."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rexnet.data.graph_files import import_openvino
from rexnet.data.output_files import write_whole
from rexnet.deploy.exported_file import ExportedFile

if TYPE_CHECKING:
    import onnx


def write_int8(graph: "onnx.ModelProto", facts: ExportedFile, output: str) -> int:
    """A .onnx file, or a .xml file with its weights in a .bin file beside it; returns the bytes of all."""
    path = Path(output)
    if path.suffix == ".onnx":
        facts.put_into_onnx(graph)
        contents = {path: graph.SerializeToString()}
    else:
        openvino = import_openvino()
        model = openvino.Core().read_model(graph.SerializeToString())
        facts.put_into_openvino(model)
        with TemporaryDirectory() as folder:
            openvino.save_model(model, Path(folder, path.name), compress_to_fp16=False)
            # The weights first: a .xml file is never without them.
            names = (path.with_suffix(".bin"), path)
            contents = {name: Path(folder, name.name).read_bytes() for name in names}
    for name, content in contents.items():
        write_whole(name, content)
    return sum(map(len, contents.values()))
