import json
from dataclasses import replace

import pytest
import torch

from rexnet.data.preprocess import Preprocess
from rexnet.deploy.bench import bench, find_subject
from rexnet.deploy.classifiers import ExportedFile
from rexnet.deploy.config import BenchConfig
from rexnet.engines.config import Engine
from rexnet.engines.graph_files import write_graph
from rexnet.engines.native import library
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.errors import ModelError, OptionError
from rexnet.models.factory import create_model
from rexnet.models.inference_form import fold
from tests.networks import image_batch, need_engine, with_trained_norms


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = create_model("rexnet_010", num_classes=3)
    preprocess = Preprocess(image_size_px=32)
    graph = onnx_graph(fold(model), pixels=preprocess)
    facts = ExportedFile(classes=(), preprocess=preprocess, config=model.config, pixels=True)
    path = tmp_path_factory.mktemp("exported") / "small.onnx"
    write_graph(graph, facts.to_dict(), path)
    return str(path)


@pytest.mark.seconds
def test_every_combination_that_exists_has_a_row_whose_figures_agree(exported, tmp_path):
    config = BenchConfig(
        models=("rexnet_010", exported),
        backends=("torch", "onnxruntime"),
        precisions=("fp32", "bf16"),
        batch=(1, 2),
        image_size=32,
        threads=1,
        rounds=2,
        memory=False,
        output=str(tmp_path / "bench.json"),
        plot=str(tmp_path / "bench.png"),
    )
    rows = bench(config)
    engines = [
        ("torch", "fp32"),
        ("torch", "bf16"),
        ("onnxruntime", "fp32"),
    ]
    expected = [(name, *engine, batch) for name in config.models for engine in engines for batch in (1, 2)]
    graphs = [row for row in expected if row[0] != exported or row[1] != "torch"]
    assert [(row.model, row.backend, row.precision, row.batch) for row in rows] == graphs
    for row in rows:
        low, high = row.quartiles_ms
        assert 0 < low <= row.median_ms <= high <= row.p95_ms
        assert row.images_per_s == pytest.approx(1e3 * row.batch / row.median_ms)
    written = json.loads((tmp_path / "bench.json").read_text())
    assert {"processor", "torch", "onnxruntime", "openvino", "commit"} <= written["machine"].keys()
    assert [row["median_ms"] for row in written["rows"]] == pytest.approx([row.median_ms for row in rows], rel=1e-4)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG") and (tmp_path / "bench.svg").exists()


def test_unmeasurable_models_are_refused(exported):
    with pytest.raises(ModelError, match="timm has no network 'rexnet_999'"):
        find_subject("timm/rexnet_999")
    with pytest.raises(OptionError, match="none of the networks can run with torch in fp32"):
        bench(BenchConfig(models=(exported,), backends=("torch",), precisions=("fp32",)))
    with pytest.raises(OptionError, match="--batch is"):
        BenchConfig(batch=(0,))


def test_timms_networks_predict_the_same_in_every_engine_as_in_pytorch():
    subject = find_subject("timm/mobilenetv3_small_050")
    with_trained_norms(subject.model)
    images = image_batch(64)[:2]
    eager = subject.open(Engine(threads=1))(images)
    assert eager.abs().max() > 0
    for backend in ("onnxruntime", "openvino"):
        found = subject.open(Engine(backend=backend, threads=1))(images)
        torch.testing.assert_close(found, eager, rtol=1e-3, atol=1e-3 * float(eager.abs().max()))
    subject.open(Engine(precision="bf16", threads=1))
    assert next(subject.model.parameters()).dtype == torch.float32


@pytest.mark.seconds
def test_a_missing_native_engine_is_logged_once_with_what_to_install(exported, monkeypatch, caplog):
    config = BenchConfig(
        backends=("torch", "native"), models=("rexnet_010", exported), image_size=32, rounds=1, batch=(1,)
    )
    need_engine("native")
    rows = bench(replace(config, backends=("native",), precisions=("fp32",)))
    assert [(row.backend, row.precision) for row in rows] == 2 * [("native", "fp32")] and not caplog.records
    monkeypatch.setattr(library, "_file", lambda: None)
    assert {row.backend for row in bench(config)} == {"torch"}
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "native is skipped: it is not compiled" in record.getMessage()
    with pytest.raises(OptionError, match="nothing can be measured"):
        bench(replace(config, backends=("native",)))


def test_engines_that_are_not_installed_are_skipped_with_what_to_install(monkeypatch, caplog):
    monkeypatch.setattr("rexnet.engines.backends.find_spec", lambda name: None)
    config = BenchConfig(models=("rexnet_010",), image_size=32, rounds=1, batch=(1,), precisions=("fp32",))
    assert {row.backend for row in bench(config)} <= {"torch", "native"}
    skipped = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    hint = "is skipped: it is not installed: pip install 'rexnet[deploy]'"
    assert skipped >= {f"onnxruntime {hint}", f"openvino {hint}"}
