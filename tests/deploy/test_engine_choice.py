import json
import logging
from dataclasses import replace

import pytest
import torch

from rexnet.data.preprocess import Preprocess
from rexnet.deploy import engine_choice
from rexnet.deploy.classifier_files import Classifier
from rexnet.deploy.engine_choice import choose
from rexnet.models.factory import create_model

MS = {"torch fp32": 40, "onnxruntime fp32": 8, "openvino fp32": 9, "openvino bf16": 5, "torch bf16": 90}
"""What the engines need for an image, and below, for calls of so many images on three threads at once."""
MS_AT_ONCE = {"1 a call": 30, "4 a call": 96, "8 a call": 240}


@pytest.fixture
def measured(monkeypatch, tmp_path, caplog):
    """The batches of measurements that were made; figures are those above."""
    batches: list[list[str]] = []

    def interleaved_ms(calls, *, rounds):
        batches.append(list(calls))
        for call in calls.values():
            call()
        return {name: [{**MS, **MS_AT_ONCE}[name]] * rounds for name in calls}

    monkeypatch.setattr(engine_choice, "interleaved_ms", interleaved_ms)
    monkeypatch.setattr(engine_choice, "cache_folder", lambda: tmp_path / "cache" / "engines")
    caplog.set_level(logging.INFO, "rexnet")
    return batches


@pytest.fixture
def classifier() -> Classifier:
    def opened(engine, device):
        return lambda images: images.flatten(1)[:, :3]

    return Classifier(
        classes=("a", "b", "c"),
        preprocess=Preprocess(image_size_px=8),
        config=create_model("rexnet_020", num_classes=3).config,
        backends=("torch", "compile", "onnxruntime", "openvino"),
        open=opened,
    )


def auto(classifier, **changes):
    return choose(classifier, **{"backend": "auto", "precision": "auto", "threads": 3, **changes})


def test_the_fastest_exact_engine_is_chosen_and_what_was_measured_is_told(classifier, measured, caplog):
    choice = auto(classifier)
    assert (choice.backend, choice.precision, choice.chunk) == ("onnxruntime", "fp32", 4)
    assert choice.ms_per_image == {
        **{name: MS[name] for name in MS if name != "torch bf16"},
        "1 a call": 10,
        "4 a call": 8,
        "8 a call": 10,
    }
    assert "engine, measured now: onnxruntime fp32, 4 images a call (ms an image: torch fp32 40.00, " in caplog.text
    assert measured[1] == ["onnxruntime fp32", "openvino fp32", "openvino bf16"], "PyTorch is far behind"


def test_bf16_is_for_those_who_ask(classifier, measured):
    assert (auto(classifier, precision="bf16").backend, measured[0]) == ("openvino", ["torch bf16", "openvino bf16"])
    assert auto(replace(classifier, precision="bf16", kind=".xml bf16", backends=("openvino",))).precision == "bf16"
    assert auto(classifier, backend="torch").precision == "fp32"


def test_a_choice_is_measured_once_for_each_machine_network_and_setting(classifier, measured, monkeypatch, caplog):
    first = auto(classifier)
    assert auto(classifier) == first and len(measured) == 3
    assert "engine, measured before: onnxruntime fp32, 4 images a call" in caplog.text
    others = [
        (replace(classifier, preprocess=Preprocess(image_size_px=9)), {}),
        (replace(classifier, config=create_model("rexnet_030", num_classes=3).config), {}),
        (replace(classifier, kind=".onnx int8"), {}),
        (classifier, {"threads": 2}),
        (classifier, {"precision": "bf16"}),
        (classifier, {"backend": "openvino"}),
    ]
    for number, (other, changes) in enumerate(others, start=2):
        auto(other, **changes)
        assert len(measured) == 3 * number
    monkeypatch.setattr(engine_choice, "engine_versions", lambda: {"openvino": "99"})
    auto(classifier)
    monkeypatch.setattr(engine_choice, "processor_name", lambda: "another")
    auto(classifier)
    assert len(measured) == 3 * (len(others) + 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: "",
        lambda content: "[]",
        lambda content: "null",
        lambda content: json.dumps({**content, "key": {}}),
        lambda content: json.dumps({**content, "choice": {**content["choice"], "backend": "rm"}}),
        lambda content: json.dumps({**content, "choice": {**content["choice"], "chunk": 10**9}}),
        lambda content: json.dumps({**content, "choice": {**content["choice"], "ms_per_image": {"x": "y"}}}),
        lambda content: json.dumps({**content, "choice": {"more": 1}}),
    ],
)
def test_a_damaged_memory_is_a_remark_and_mended(classifier, measured, change, caplog):
    first = auto(classifier)
    (file,) = engine_choice.cache_folder().iterdir()
    file.write_text(change(json.loads(file.read_text())))
    assert auto(classifier) == first and "measuring again" in caplog.text and len(measured) == 6
    assert auto(classifier) == first and len(measured) == 6


def test_a_memory_that_cannot_be_written_is_a_remark(classifier, measured, caplog):
    folder = engine_choice.cache_folder()
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("a file in its place")
    assert auto(classifier).backend == auto(classifier).backend == "onnxruntime"
    assert "cannot be remembered" in caplog.text and len(measured) == 6


def test_engines_that_fail_or_answer_otherwise_are_left_out(classifier, measured, caplog):
    def opened(engine, device):
        if engine.backend == "onnxruntime":
            raise ValueError("onnxruntime is not installed; pip install 'rexnet[deploy]'")
        wrong = engine.backend == "openvino" and engine.precision == "fp32"
        return lambda images: images.flatten(1)[:, :3] + torch.tensor([0.0, 0.0, 0.5 * wrong])

    choice = auto(replace(classifier, open=opened))
    assert choice.backend == "torch" and measured[0] == ["torch fp32", "openvino bf16"]
    assert "onnxruntime fp32 is left out: onnxruntime is not installed; pip install" in caplog.text
    assert "openvino fp32 is left out: its probabilities differ by 0." in caplog.text
    with pytest.raises(ValueError, match="is not installed"):
        auto(replace(classifier, open=opened), backend="onnxruntime")
