import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from PIL import Image

from rexnet.deploy.predictor import Predictor
from rexnet.detection import native_body
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.detection.native_body import NativeBody, with_native_body
from rexnet.detection.runtime import ObjectPredictor
from rexnet.training.freezing import freeze_statistics
from tests.networks import need_engine, with_trained_norms

IMAGES = [Image.effect_noise(size, 80).convert("RGB") for size in ((90, 60), (60, 90))]


@pytest.fixture
def detector(tiny_detector):
    need_engine("native")
    detector = tiny_detector("mask_rcnn", proposals=16).eval()
    with_trained_norms(detector.backbone.body.network)
    return detector


@pytest.fixture
def trained(detector):
    return TrainedDetector(detector, ("a", "b", "c"), (1, 2, 3))


def outputs(predictor):
    return [found.output for found in predictor(IMAGES)]


def check(found, expected, *, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert len(other["scores"]) > 0 and torch.equal(one["labels"], other["labels"])
        for name in ("boxes", "scores"):
            torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)
        # Masks are pasted into boxes of whole pixels: some edges move by a pixel.
        assert (one["masks"] - other["masks"]).abs().mean() <= 20 * tolerance


@pytest.mark.parametrize("frozen", [False, True], ids=["batch norms", "frozen norms"])
def test_detections_are_pytorchs(frozen, trained, monkeypatch):
    if frozen:
        freeze_statistics(trained.model.backbone.body)
    native = ObjectPredictor(trained, threads=2, device="cpu")
    assert str(native.engine) == "native fp32"
    monkeypatch.setenv("REXNET_NATIVE", "0")
    torchs = ObjectPredictor(trained, threads=2, device="cpu")
    assert str(torchs.engine) == "torch fp32" and torchs._model is trained.model
    check(outputs(native), outputs(torchs), tolerance=1e-3)
    batches = [found.output for found in native.stream(IMAGES, batch_size=2)]
    check(batches, [found.output for found in torchs.stream(IMAGES, batch_size=2)], tolerance=1e-3)


def test_the_given_detector_stays_as_it_is_and_may_change_later(trained):
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    predictor = ObjectPredictor(trained, threads=1, device="cpu")
    expected = outputs(predictor)
    assert not any(isinstance(module, NativeBody) for module in trained.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
    with torch.no_grad():
        for value in trained.model.parameters():
            value.zero_()
    trained.model.train().double()
    check(outputs(predictor), expected, tolerance=0)


@pytest.mark.parametrize("kind", [Predictor, ObjectPredictor])
def test_copies_and_pickles_compute_the_same(kind, trained, monkeypatch):
    predictor = kind(trained, threads=1, device="cpu")
    expected, content = outputs(predictor), pickle.dumps(predictor)
    for copied in (deepcopy(predictor), pickle.loads(content)):
        assert copied.engine.backend == "native"
        check(outputs(copied), expected, tolerance=0)
    monkeypatch.setenv("REXNET_NATIVE", "0")  # as on another machine
    check(outputs(pickle.loads(content)), expected, tolerance=1e-3)


def test_several_threads_find_the_same(trained):
    predictor = ObjectPredictor(trained, threads=2, device="cpu")
    expected = outputs(predictor)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(outputs, [predictor] * 6):
            check(found, expected, tolerance=1e-5)


def test_larger_images_than_the_engine_takes_are_pytorchs(detector, monkeypatch):
    images = torch.randn(1, 3, 64, 96)
    native = with_native_body(detector, threads=1).backbone.body
    monkeypatch.setattr(native_body, "LONGEST_SIDE_PX", 95)
    with torch.inference_mode():
        assert all(map(torch.equal, native(images), detector.backbone.body(images)))


def test_pytorch_computes_what_the_engine_does_not(tiny_detector, detector, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "rexnet")
    for other in (tiny_detector("ssdlite"), tiny_detector("faster_rcnn", backbone="timm/test_resnet.r160_in1k")):
        assert with_native_body(other.eval(), threads=1) is None
    config = detector.config.backbone
    blocks = tuple(replace(block, out_activation="softplus") for block in config.blocks)
    softplus = tiny_detector("faster_rcnn", backbone=replace(config, blocks=blocks))
    assert with_native_body(softplus.eval(), threads=1) is None and "softplus" in caplog.text
    monkeypatch.setattr(native_body, "_AGREE", 0.0)
    assert with_native_body(detector, threads=1) is None and "differ from PyTorch's" in caplog.text
