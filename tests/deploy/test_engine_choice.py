import json
import logging
import re
from dataclasses import replace

import pytest
import torch

from rexnet.data.preprocess import Preprocess
from rexnet.deploy import engine_choice
from rexnet.deploy.classifiers import Classifier
from rexnet.deploy.engine_choice import choose
from rexnet.engines.config import Engine
from rexnet.engines.measuring import Measured
from rexnet.models.factory import create_model

MS = {"torch fp32": 40, "onnxruntime fp32": 8, "openvino fp32": 9, "openvino bf16": 5, "torch bf16": 90}
MS |= {"native fp32": 6, "native bf16": 4}
"""What the engines need for an image, and below, for calls of so many images on three threads at once."""
MS_AT_ONCE = {1: 30, 4: 96, 8: 240}


class FakeNetwork:
    """One in an engine that outputs the first numbers of an image."""

    def __init__(self, engine, wrong=0.0):
        self.wrong = wrong

    def __call__(self, images):
        return images.flatten(1)[:, :3] + torch.tensor([0.0, 0.0, self.wrong])


@pytest.fixture
def measured(monkeypatch, tmp_path, caplog):
    """The engines that were measured, in order; figures are those above."""
    engines: list[str] = []

    def interleaved_ms(calls, *, rounds):
        for call in calls.values():
            call()
        return {name: [MS_AT_ONCE[name]] * rounds for name in calls}

    def measure_apart(prepare, *, rounds, skip_failed):
        found = {}
        for engine, each in prepare.items():
            try:
                found[engine] = Measured(times_ms=[MS[str(engine)]] * rounds, peak_mib=None, result=each()())
                engines.append(str(engine))
            except ValueError as error:
                logging.getLogger("rexnet").info("%s is skipped: %s", engine, error)
        return found

    monkeypatch.setattr(engine_choice, "interleaved_ms", interleaved_ms)
    monkeypatch.setattr(engine_choice, "measure_apart", measure_apart)
    monkeypatch.setattr(engine_choice, "cache_folder", lambda: tmp_path / "cache" / "engines")
    caplog.set_level(logging.INFO, "rexnet")
    return engines


@pytest.fixture
def classifier() -> Classifier:
    def opened(engine, *, device):
        return FakeNetwork(engine)

    return Classifier(
        classes=("a", "b", "c"),
        preprocess=Preprocess(image_size_px=8),
        config=create_model("rexnet_020", num_classes=3).config,
        backends=("torch", "compile", "onnxruntime", "openvino"),
        open=opened,
    )


def auto(classifier, **changes):
    return choose(classifier, **{"backend": "auto", "precision": "auto", "threads": 3, **changes})


def test_the_fastest_exact_engine_is_chosen_and_the_times_are_logged(classifier, measured, caplog):
    choice = auto(classifier)
    assert (choice.backend, choice.precision, choice.chunk) == ("onnxruntime", "fp32", 4)
    assert choice.ms_per_image == {
        **{name: MS[name] for name in MS if name != "torch bf16" and "native" not in name},
        "1 a call": 10,
        "4 a call": 8,
        "8 a call": 10,
    }
    assert "engine, measured now: onnxruntime fp32, 4 images per call" in caplog.text
    assert measured == ["torch fp32", "onnxruntime fp32", "openvino fp32", "openvino bf16"]


def test_bf16_is_used_only_on_request(classifier, measured):
    assert (auto(classifier, precision="bf16").backend, measured) == ("openvino", ["torch bf16", "openvino bf16"])
    assert auto(replace(classifier, precision="bf16", kind=".xml bf16", backends=("openvino",))).precision == "bf16"
    assert auto(classifier, backend="torch").precision == "fp32"


def test_the_native_engine_is_measured_where_it_runs(classifier, measured, monkeypatch):
    classifier = replace(classifier, backends=(*classifier.backends, "native"))

    def is_installed(backend, precision, int8):
        return backend != "native" or int8 or precision == "fp32"

    monkeypatch.setattr(engine_choice, "is_installed", is_installed)
    assert auto(classifier).backend == "native" and measured[-2:] == ["openvino bf16", "native fp32"]
    int8 = auto(replace(classifier, int8=True, kind=".onnx int8"))
    assert int8.backend == "native" and measured[-2:] == ["openvino bf16", "native fp32"], (
        "the file's int8 is one engine"
    )
    once = len(measured)
    monkeypatch.setattr(engine_choice, "is_installed", lambda backend, precision, int8: backend != "native")
    assert auto(classifier).backend == "onnxruntime", "a choice is not reused where its engine is missing"
    assert not {"native fp32", "native bf16"} & set(measured[once:])


def test_a_precision_of_no_engine_and_results_that_are_not_numbers_are_refused(classifier):
    with pytest.raises(ValueError, match="precision is bf16, in which onnxruntime cannot run this file; allowed: auto"):
        auto(replace(classifier, backends=("onnxruntime",)), precision="bf16")
    logits = {Engine(backend="torch"): torch.zeros(1, 3), Engine(backend="native"): torch.full((1, 3), torch.nan)}
    with pytest.raises(ValueError, match="probabilities of native fp32 differ"):
        engine_choice.check_agreement(classifier, logits)


def test_a_choice_depends_on_the_native_library(classifier, measured, monkeypatch):
    classifier = replace(classifier, backends=("torch", "native"))
    if not engine_choice.is_installed("native", "fp32"):
        pytest.skip("the native engine does not run here")
    for name, value in (("", ""), ("REXNET_ISA", "avx2"), ("REXNET_NATIVE", "0")):
        monkeypatch.setenv(name or "REXNET_ISA", value)
        auto(classifier)
    keys = [json.loads(file.read_text())["key"] for file in engine_choice.cache_folder().iterdir()]
    versions = {key["versions"]["native"] for key in keys}
    assert len(versions) == 3 and None in versions and any((v or "").endswith(" avx2") for v in versions)


def test_a_choice_is_measured_once_for_each_machine_network_and_setting(classifier, measured, monkeypatch, caplog):
    first, once = auto(classifier), len(measured)
    assert auto(classifier) == first and len(measured) == once
    assert caplog.text.count("engine, measured") == 1
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
        assert caplog.text.count("engine, measured") == number
    for name, value in (("engine_versions", {"openvino": "99"}), ("processor_name", "another")):
        monkeypatch.setattr(engine_choice, name, lambda value=value: value)
        before = len(measured)
        auto(classifier)
        assert len(measured) == before + once


def test_times_from_a_busy_machine_are_measured_again_on_a_quiet_one(classifier, measured, monkeypatch):
    load = [4.0]
    monkeypatch.setattr(engine_choice, "machine_load", lambda: load[0])
    auto(classifier)
    once = len(measured)
    auto(classifier)
    assert len(measured) == once, "it is still busy"
    load[0] = 0.1
    auto(classifier)
    assert len(measured) == 2 * once
    load[0] = 4.0
    auto(classifier)
    assert len(measured) == 2 * once, "what was measured in quiet stays"
    (file,) = engine_choice.cache_folder().iterdir()
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "load"}))
    load[0] = 0.1
    auto(classifier)
    assert len(measured) == 3 * once, "an older file does not say how busy it was"


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
def test_a_damaged_cache_is_logged_and_repaired(classifier, measured, change, caplog):
    first, once = auto(classifier), len(measured)
    (file,) = engine_choice.cache_folder().iterdir()
    file.write_text(change(json.loads(file.read_text())))
    assert auto(classifier, measure=False).ms_per_image == {} and len(measured) == once
    assert "it is ignored" in caplog.text and "measuring again" not in caplog.text
    assert auto(classifier) == first and "measuring again" in caplog.text and len(measured) == 2 * once
    assert auto(classifier) == first and len(measured) == 2 * once


def test_a_read_only_cache_is_logged(classifier, measured, caplog):
    folder = engine_choice.cache_folder()
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("a file in its place")
    assert auto(classifier).backend == "onnxruntime"
    once = len(measured)
    assert auto(classifier).backend == "onnxruntime"
    assert "cannot be saved" in caplog.text and len(measured) == 2 * once


def test_engines_that_fail_or_differ_are_skipped(classifier, measured, caplog):
    def opened(engine, *, device):
        if engine.backend == "onnxruntime":
            raise ValueError("onnxruntime is not installed; pip install 'rexnet[deploy]'")
        wrong = engine.backend == "openvino" and engine.precision == "fp32"
        return FakeNetwork(engine, 0.5 * wrong)

    choice = auto(replace(classifier, open=opened))
    assert choice.backend == "torch" and measured == ["torch fp32", "openvino fp32", "openvino bf16"]
    assert choice.ms_per_image.keys() >= {"torch fp32", "openvino bf16"} and "openvino fp32" not in choice.ms_per_image
    assert "onnxruntime fp32 is skipped: onnxruntime is not installed; pip install" in caplog.text
    assert "openvino fp32 is skipped: probabilities of openvino fp32 differ by 0." in caplog.text
    with pytest.raises(ValueError, match="is not installed"):
        auto(replace(classifier, open=opened), backend="onnxruntime")


def test_engines_that_are_not_installed_are_skipped_with_what_to_install(classifier, measured, monkeypatch, caplog):
    monkeypatch.setattr("rexnet.engines.backends.find_spec", lambda name: None)
    assert auto(classifier).backend == "torch" and not measured
    skipped = [line for line in caplog.messages if "is skipped" in line]
    reason = "it is not installed: pip install 'rexnet[deploy]'"
    assert skipped == [f"onnxruntime is skipped: {reason}", f"openvino is skipped: {reason}"]

    def opened(engine, *, device):
        raise ValueError(f"{engine} needs a package")

    exported = replace(classifier, backends=("onnxruntime", "openvino"), kind=".onnx", open=opened)
    with pytest.raises(ValueError, match="onnxruntime fp32 needs a package"):
        auto(exported)


def test_without_measuring_the_first_installed_engine_is_taken_unless_a_choice_is_cached(
    classifier, measured, monkeypatch, caplog
):
    monkeypatch.setattr(engine_choice, "machine_load", lambda: 4.0)
    exported = replace(classifier, backends=("onnxruntime", "openvino"), kind=".onnx")
    assert auto(classifier, measure=False).backend == "torch" and not measured
    assert "torch fp32, not measured" in caplog.text and "--backend" in caplog.text
    assert auto(exported, measure=False).backend == "onnxruntime"
    monkeypatch.setattr(engine_choice, "engine_versions", lambda: {"onnxruntime": None, "openvino": "1"})
    assert auto(exported, measure=False).backend == "openvino" and not measured
    assert not engine_choice.cache_folder().exists()
    choice = auto(classifier)
    monkeypatch.setattr(engine_choice, "machine_load", lambda: 0.0)
    assert auto(classifier, measure=False) == choice and choice.backend == "onnxruntime"


def test_the_error_names_the_engine_that_was_the_reference(classifier, measured, caplog):
    def opened(engine, *, device):
        if engine.backend == "torch":
            raise ValueError("out of memory")
        return FakeNetwork(engine, 0.5 * (engine.backend == "openvino"))

    assert auto(replace(classifier, open=opened)).backend == "onnxruntime"
    assert re.search(r"openvino fp32 differ by \S+ from those of onnxruntime fp32", caplog.text)


def test_if_no_engine_runs_in_its_own_process_the_first_is_opened_here_and_measured_next_time(
    classifier, measured, monkeypatch, caplog
):
    monkeypatch.setattr(engine_choice, "measure_apart", lambda *arguments, **options: {})
    assert auto(classifier).backend == "torch"
    assert "engines cannot be measured in separate processes: torch fp32" in caplog.text
    assert not engine_choice.cache_folder().exists()

    def fails(engine, *, device):
        raise ValueError(f"{engine} fails here too")

    with pytest.raises(ValueError, match="torch fp32 fails here too"):
        auto(replace(classifier, open=fails))
