"""Detectors in ONNX Runtime and OpenVINO."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from rexnet import cli
from rexnet.detection import ObjectPredictor, checkpoints, export, onnx_form
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.detection.config import Kind
from rexnet.detection.detectors import create_detector
from rexnet.detection.export import compare, export_detector
from rexnet.detection.exported_detectors import load_exported
from rexnet.detection.onnx_form import resize_by_whole_numbers
from rexnet.detection.runtime import as_tensor
from rexnet.engines.backends import engine_of_format, open_graph
from rexnet.engines.config import Engine
from rexnet.engines.graph_files import import_onnx, read_facts, sample_images
from rexnet.errors import OptionError
from rexnet.training import checkpoint
from tests.networks import with_measured_statistics

CLASSES = ("ring", "box, open", "füchse")


def busy_detector(kind: str) -> TrainedDetector:
    """Untrained, and sure of many things."""
    torch.manual_seed(0)
    sizes = {"min_size_px": 64, "max_size_px": 64 if kind == "ssdlite" else 96}
    more = {} if kind == "ssdlite" else {"proposals": 30}
    model = create_detector(kind, backbone="rexnet_010", num_classes=3, **sizes, **more)
    with_measured_statistics(model.backbone, size_px=64)
    if kind != "ssdlite":
        # Untrained layers score all regions nearly the same, and rounding would choose among them.
        nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.3)
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    if kind == "mask_rcnn":
        nn.init.normal_(model.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.3)
    return TrainedDetector(model.eval(), CLASSES, (3, 7, 90), score_threshold=0.25)


def never_sure(trained: TrainedDetector) -> TrainedDetector:
    """Finds nothing."""
    if "roi_heads" in dict(trained.model.named_children()):
        trained.model.roi_heads.box_predictor.cls_score.bias.data[0] = 100.0
    else:
        trained.model.score_thresh = 0.9999
    return trained


@pytest.fixture(scope="module", params=get_args(Kind))
def exported(request, tmp_path_factory) -> tuple[TrainedDetector, Path]:
    """A detector and its ONNX file; nobody changes them."""
    trained = busy_detector(request.param)
    path = tmp_path_factory.mktemp(request.param) / "a.onnx"
    made = export_detector(trained, path)
    assert os.listdir(path.parent) == ["a.onnx"] and made.agreement.detections > 100
    return trained, path


def images_of_many_sizes() -> list[np.ndarray]:
    """float32 (3, H, W): noise, photographs and a blank one, wide and tall, smaller and larger than detectors take."""
    noise, photographs = np.random.default_rng(0), sample_images(None)[:2]
    sizes = ((131, 97), (64, 150))
    images = [as_tensor(photograph.resize(size)) for photograph, size in zip(photographs, sizes, strict=True)]
    random = [noise.random((3, *shape), np.float32) for shape in ((70, 90), (40, 33), (64, 96))]
    return [*random, *(image.contiguous().numpy() for image in images), np.zeros((3, 90, 50), np.float32)]


@pytest.mark.slow
def test_every_detector_finds_what_pytorch_finds_in_both_engines(exported):
    trained, path = exported
    facts = read_facts(path)
    graph = import_onnx().load(path).graph
    assert facts["classes"] == list(CLASSES) and facts["category_ids"] == [3, 7, 90]
    assert facts["score_threshold"] == load_exported(path).score_threshold == 0.25
    session = onnxruntime.InferenceSession(str(path))
    described = {tensor.name: tensor.doc_string for part in (graph.input, graph.output) for tensor in part}
    assert described == facts["tensors"] and "float32 (3, height, width), from 0 to 1: red, green" in described["image"]
    assert (
        "left, top, right, bottom in pixels" in described["boxes"]
        and "INFERENCE_PRECISION_HINT" in facts["computes_in"]
    )
    names = [output.name for output in session.get_outputs()]
    in_openvino = open_graph(path, Engine(backend="openvino"), any_shape=True).run
    by_whole_numbers = resize_by_whole_numbers(trained.model)
    pairs = []
    for image in images_of_many_sizes():
        with torch.no_grad():
            plain, ours = (
                [found[name].numpy() for name in names]
                for model in (trained.model, by_whole_numbers)
                for found in model([torch.from_numpy(image)])
            )
        assert_sure_ones_alike(plain, ours)
        for theirs in (session.run(None, {"image": image}), in_openvino(image)):
            pairs.append((ours, theirs))
            assert [part.dtype for part in theirs] == [part.dtype for part in ours]
    assert compare(pairs).detections > 200


def assert_sure_ones_alike(plain: list[np.ndarray], ours: list[np.ndarray]) -> None:
    """torchvision's resizing differs by rounding, which these detectors with random layers make much of."""
    for one, other in ((plain, ours), (ours, plain)):
        sure = one[2] >= 0.5
        near = np.abs(one[0][sure][:, None] - other[0]).max(axis=2) <= 1
        near &= np.abs(one[2][sure][:, None] - other[2]) <= 0.02
        near &= one[1][sure][:, None] == other[1]
        assert near.any(axis=1).sum() >= 0.9 * sure.sum()


@pytest.mark.slow
def test_exported_files_detect_like_their_checkpoint(exported, tmp_path, capsys):
    trained, path = exported
    Image.fromarray((255 * images_of_many_sizes()[0].transpose(1, 2, 0)).astype(np.uint8)).save(tmp_path / "noise.png")
    image = str(tmp_path / "noise.png")
    predictors = [ObjectPredictor(source, threads=1) for source in (trained, path)]
    assert predictors[1].engine == engine_of_format(path, threads=1)
    (ours,), (theirs,) = (predictor(image) for predictor in predictors)
    assert ours.output.keys() == theirs.output.keys()
    assert_sure_ones_alike(
        *([one.output[name].numpy() for name in ("boxes", "labels", "scores")] for one in (ours, theirs))
    )
    cli.main(["detect", "predict", str(path), image, "--out", str(tmp_path / "drawn"), "--min-score", "0"])
    rows = json.loads((tmp_path / "drawn" / "detections.json").read_text())
    assert len(rows) == len(theirs.names) > 10 and {row["category_id"] for row in rows} <= {3, 7, 90}
    assert "füchse" in capsys.readouterr().out
    with pytest.raises(ValueError, match="device is 'cuda'; allowed for a file of rexnet export: auto or cpu"):
        ObjectPredictor(path, device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ssdlite", "mask_rcnn"])
def test_empty_outputs_have_shapes_and_uint8_pixels_are_accepted(kind, tmp_path, caplog):
    path = tmp_path / "a.xml"
    made = export_detector(never_sure(busy_detector(kind)), path, pixels=True)
    assert set(os.listdir(tmp_path)) == {"a.xml", "a.bin"} and made.agreement.detections == 0
    assert "neither PyTorch nor the file detects anything" in caplog.text
    found = open_graph(path, Engine(backend="openvino"), any_shape=True).run(np.full((50, 70, 3), 255, np.uint8))
    shapes = [(0, 4), (0,), (0,), (0, 1, 50, 70)]
    assert [part.shape for part in found] == shapes[: len(found)] and read_facts(path)["pixels"] is True
    (nothing,) = ObjectPredictor(path)(Image.new("RGB", (70, 50)))
    assert nothing.names == () and [tuple(part.shape) for part in nothing.output.values()] == shapes[: len(found)]


def changed(content: bytes, name: str, change: np.ndarray) -> bytes:
    """An ONNX file with something added to the numbers of a tensor."""
    graph = onnx.load_model_from_string(content)
    (tensor,) = [tensor for tensor in graph.graph.initializer if tensor.name.endswith(name)]
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + change, tensor.name))
    return graph.SerializeToString()


LAST_BIAS = {
    "faster_rcnn": "roi_heads.box_predictor.cls_score.bias",
    "mask_rcnn": "roi_heads.mask_predictor.mask_fcn_logits.bias",
}


@pytest.mark.slow
@pytest.mark.parametrize("exported", LAST_BIAS, indirect=True)
def test_a_graph_with_a_wrong_bias_is_refused(exported, tmp_path, monkeypatch):
    trained, path = exported
    more = np.linspace(0, 1, 4, dtype=np.float32)
    content = changed(path.read_bytes(), LAST_BIAS[trained.model.kind], more)
    monkeypatch.setattr(export, "_trace", lambda model, *, pixels: content)
    with pytest.raises(ValueError, match="nothing was written"):
        export_detector(trained, tmp_path / "a.onnx")
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_graph_that_is_right_at_one_size_only_is_refused(tmp_path, monkeypatch):
    plain = onnx_form._Resize.__call__

    def to_the_traced_size(self, image, target=None):
        if not torch.jit.is_tracing():
            return plain(self, image, target)
        return nn.functional.interpolate(image[None], size=(64, 85), mode="bilinear")[0], target

    monkeypatch.setattr(onnx_form._Resize, "__call__", to_the_traced_size)
    with pytest.raises(ValueError, match="nothing was written"):
        export_detector(busy_detector("faster_rcnn"), tmp_path / "a.onnx")
    assert not os.listdir(tmp_path)


def detections(*rows: tuple[float, int, float]) -> list[np.ndarray]:
    """Of (left edge, label, score)."""
    boxes = np.array([(left, 0, left + 10, 10) for left, _, _ in rows], np.float32).reshape(-1, 4)
    return [boxes, np.array([row[1] for row in rows]), np.array([row[2] for row in rows], np.float32)]


def test_the_comparison_ignores_order_only():
    ours = detections((0, 1, 0.9), (50, 2, 0.5), (90, 2, 0.5))
    swapped = detections((0, 1, 0.9), (90.01, 2, 0.5), (50, 2, 0.5001))
    agreement = compare([(ours, swapped), (detections(), detections())])
    assert (agreement.images, agreement.detections) == (2, 3)
    assert agreement.box_px == pytest.approx(0.01, rel=0.1) and agreement.score == pytest.approx(1e-4, rel=0.1)
    for wrong in (
        detections((0, 1, 0.9), (50, 2, 0.5)),
        detections((0, 1, 0.9), (50, 2, 0.5), (50, 2, 0.5)),
        detections((0, 1, 0.9), (50, 1, 0.5), (90, 2, 0.5)),
        detections((0, 1, 0.9), (50.2, 2, 0.5), (90, 2, 0.5)),
        detections((0, 1, 0.9), (50, 2, 0.51), (90, 2, 0.5)),
        detections(),
    ):
        with pytest.raises(ValueError, match="nothing was written"):
            compare([(ours, wrong)])


@pytest.mark.seconds
def test_a_different_graph_and_options_without_effect_leave_no_file(tmp_path, monkeypatch, capsys):
    trained = busy_detector("ssdlite")
    content = checkpoints.pack(trained.model, {}, classes=CLASSES, category_ids=(3, 7, 90))
    checkpoint.save(tmp_path / "best.pt", content)
    with pytest.raises(OptionError, match=r"--output is .*a\.pt2; allowed: .*\.onnx or \.xml for a detector"):
        export_detector(trained, tmp_path / "a.pt2")
    for words in (["--output-layer", "features"], ["--channel-multiple", "8"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["export", str(tmp_path / "best.pt"), "--output", str(tmp_path / "a.onnx"), *words])
        assert stop.value.code == 2 and "for a detector" in capsys.readouterr().err

    reads, read = [], checkpoint.read_checkpoint_file
    monkeypatch.setattr(checkpoint, "read_checkpoint_file", lambda path: reads.append(path) or read(path))
    monkeypatch.setattr(export, "write_graph", lambda graph, facts, path: path.write_bytes(b"half"))
    found = SimpleNamespace(run=lambda image: detections((0, 1, 0.9)))
    monkeypatch.setattr(export, "open_graph", lambda path, engine, any_shape: found)
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (64, 48), "red").save(folder / "a.png")
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(tmp_path / "best.pt"), "--output", str(tmp_path / "a.onnx"), "--verify", str(folder)])
    assert stop.value.code == 1 and "nothing was written" in capsys.readouterr().err and len(reads) == 1
    assert set(os.listdir(tmp_path)) == {"best.pt", "images"}
