"""Detectors in ONNX Runtime and OpenVINO."""

import os

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from rexnet import cli
from rexnet.data.graph_files import read_facts, run_in_openvino
from rexnet.data.option_checks import OptionError
from rexnet.detection import detector_files, export
from rexnet.detection.detector_files import TrainedDetector
from rexnet.detection.detectors import create_detector
from rexnet.detection.export import EXPORTABLE, export_detector
from rexnet.detection.graph_check import compare
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
    return TrainedDetector(model.eval(), CLASSES, (3, 7, 90))


def never_sure(trained: TrainedDetector) -> TrainedDetector:
    """Finds nothing."""
    if "roi_heads" in dict(trained.model.named_children()):
        trained.model.roi_heads.box_predictor.cls_score.bias.data[0] = 100.0
    else:
        trained.model.score_thresh = 0.9999
    return trained


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTABLE)
def test_every_detector_finds_what_pytorch_finds_in_both_engines(kind, tmp_path):
    trained = busy_detector(kind)
    path = tmp_path / "a.onnx"
    made = export_detector(trained, path)
    assert os.listdir(tmp_path) == ["a.onnx"] and made.agreement.detections > 20
    facts = read_facts(path)
    assert facts["classes"] == list(CLASSES) and facts["category_ids"] == [3, 7, 90]
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    in_openvino = run_in_openvino(path)
    random = np.random.default_rng(0)
    for height, width in ((70, 90), (150, 64)):
        for image in (random.random((3, height, width), np.float32), np.zeros((3, height, width), np.float32)):
            with torch.no_grad():
                (found,) = trained.model([torch.from_numpy(image)])
            ours = [found[name].numpy() for name in names]
            for theirs in (session.run(None, {"image": image}), in_openvino(image)):
                compare([(ours, theirs)])
                assert [part.dtype for part in theirs] == [part.dtype for part in ours]


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTABLE)
def test_nothing_found_has_shapes_too_and_pixels_are_taken(kind, tmp_path, caplog):
    made = export_detector(never_sure(busy_detector(kind)), tmp_path / "a.xml", pixels=True)
    assert set(os.listdir(tmp_path)) == {"a.xml", "a.bin"} and made.agreement.detections == 0
    assert "neither PyTorch nor the file finds anything" in caplog.text
    found = run_in_openvino(tmp_path / "a.xml")(np.full((50, 70, 3), 255, np.uint8))
    shapes = [(0, 4), (0,), (0,), (0, 1, 50, 70)]
    assert [part.shape for part in found] == shapes[: len(found)] and read_facts(tmp_path / "a.xml")["pixels"] is True


def detections(*rows: tuple[float, int, float]) -> list[np.ndarray]:
    """Of (left edge, label, score)."""
    boxes = np.array([(left, 0, left + 10, 10) for left, _, _ in rows], np.float32).reshape(-1, 4)
    return [boxes, np.array([row[1] for row in rows]), np.array([row[2] for row in rows], np.float32)]


def test_the_comparison_forgives_order_and_nothing_else():
    ours = detections((0, 1, 0.9), (50, 2, 0.5), (90, 2, 0.5))
    swapped = detections((0, 1, 0.9), (90.01, 2, 0.5), (50, 2, 0.5001))
    agreement = compare([(ours, swapped), (detections(), detections())])
    assert (agreement.pictures, agreement.detections) == (2, 3)
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


def test_a_graph_that_differs_and_options_without_effect_leave_nothing(tmp_path, monkeypatch, capsys):
    trained = busy_detector("ssdlite")
    content = detector_files.pack(trained.model, {}, classes=CLASSES, category_ids=(3, 7, 90))
    checkpoint.save(tmp_path / "best.pt", content)
    with pytest.raises(OptionError, match="--format is torch-export; allowed: onnx or openvino for a detector"):
        export_detector(trained, tmp_path / "a.pt2")
    for words in (["--output-layer", "features"], ["--channel-multiple", "8"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["export", str(tmp_path / "best.pt"), "--output", str(tmp_path / "a.onnx"), *words])
        assert stop.value.code == 2 and "for a detector" in capsys.readouterr().err

    monkeypatch.setattr(export, "write_graph", lambda graph, facts, path: path.write_bytes(b"half"))
    monkeypatch.setattr(export, "run_graph", lambda path: lambda image: detections((0, 1, 0.9)))
    picture = tmp_path / "pictures"
    picture.mkdir()
    Image.new("RGB", (64, 48), "red").save(picture / "a.png")
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(tmp_path / "best.pt"), "--output", str(tmp_path / "a.onnx"), "--verify", str(picture)])
    assert stop.value.code == 1 and "nothing was written" in capsys.readouterr().err
    assert set(os.listdir(tmp_path)) == {"best.pt", "pictures"}


def test_detectors_whose_graphs_find_other_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a mask_rcnn cannot be exported yet; allowed: ssdlite"):
        export_detector(busy_detector("mask_rcnn"), tmp_path / "a.onnx")
    assert not os.listdir(tmp_path)
