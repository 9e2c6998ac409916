"""Descriptions in exported files."""

import json
import zipfile

import pytest

from rexnet.data.preprocess import Preprocess
from rexnet.deploy.classifiers import ExportedFile, read_exported
from rexnet.engines.graph_files import KEY, describe_onnx, import_onnx, write_graph
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.errors import WeightsError
from rexnet.models.factory import create_model
from rexnet.models.inference_form import fold

CLASSES = ("cat", 'a "quoted" <dog> & wolf,', "füchse\n\u2028")


@pytest.fixture
def described(tiny_model) -> tuple[ExportedFile, object]:
    model = tiny_model()
    preprocess = Preprocess(image_size_px=17, crop_ratio=0.9, mean=(0.1, 0.2, 0.3))
    exported = ExportedFile(classes=CLASSES, preprocess=preprocess, config=model.config, output="embedding")
    graph = onnx_graph(fold(model), output="embedding")
    describe_onnx(graph, exported.to_dict())
    return exported, graph


def test_facts_survive_every_kind_of_file(described, tmp_path):
    exported, graph = described
    for name in ("a.onnx", "a.xml"):
        write_graph(graph, exported.to_dict(), tmp_path / name)
    assert len(graph.metadata_props) == 1, "said twice"
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr(f"a/extra/{KEY}", json.dumps(exported.to_dict()))
    for name in ("a.onnx", "a.xml", "a.pt2"):
        assert read_exported(tmp_path / name) == exported


@pytest.mark.parametrize("name", ["a.onnx", "a.xml", "a.pt2", "a.png", "none.onnx"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"<?xml version='1.0'?><net/>"])
def test_other_files_are_refused_in_one_sentence(name, content, tmp_path):
    if name != "none.onnx":
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_exported(tmp_path / name)


@pytest.mark.parametrize(
    "changes",
    [{"format": 2}, {"task": "detection"}, {"classes": ["one"]}, {"classes": [1, 2, 3]}, {"output": "x"}, {"more": 1}],
)
def test_a_description_that_contradicts_itself_is_refused(described, changes, tmp_path):
    exported, graph = described
    for entry in graph.metadata_props:
        entry.value = json.dumps({**exported.to_dict(), **changes})
    import_onnx().save(graph, tmp_path / "a.onnx")
    with pytest.raises(WeightsError, match=r"is inconsistent|holds a detector"):
        read_exported(tmp_path / "a.onnx")


def test_names_may_be_unknown_but_not_too_few():
    config = create_model("rexnet_020").config
    assert ExportedFile(classes=(), preprocess=Preprocess(), config=config).classes == ()
    with pytest.raises(ValueError, match="2 class names for 1,000"):
        ExportedFile(classes=("a", "b"), preprocess=Preprocess(), config=config)
