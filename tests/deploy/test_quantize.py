import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rexnet import cli
from rexnet.data.image_set import ImageSet
from rexnet.data.preprocess import Preprocess
from rexnet.deploy import quantize as quantize_module
from rexnet.deploy.calibration import Comparison, labelled_splits
from rexnet.deploy.classifiers import ExportedFile, read_exported
from rexnet.deploy.config import QuantizeConfig
from rexnet.deploy.int8_graph import int8_graph, int8_layers
from rexnet.deploy.predictor import Predictor
from rexnet.deploy.quantize import Contender, Speed, advice, quantize
from rexnet.engines.backends import is_installed, open_graph
from rexnet.engines.config import Engine
from rexnet.engines.measuring import Measured, interleaved_ms, measure_apart
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.errors import WeightsError
from rexnet.models.inference_form import fold, pad
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import model_config
from rexnet.training.checkpoint import load
from tests.drawings import draw_folder
from tests.networks import image_batch, with_measured_statistics


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("quantize") / "images", train=8, val=20)


@pytest.fixture(autouse=True)
def measured_here(monkeypatch):
    """Speed is measured once and in this process, which takes a fraction of the time."""

    def measure(prepare, rounds, skip_failed):
        calls = {name: each() for name, each in prepare.items()}
        return {
            name: Measured(times_ms=times, peak_mib=None, result=None)
            for name, times in interleaved_ms(calls, rounds=rounds).items()
        }

    monkeypatch.setattr(quantize_module, "measure_apart", measure)


@pytest.fixture
def config(trained_run, images, tmp_path) -> Callable[..., QuantizeConfig]:
    """config(output): few rounds on one thread."""

    def make(output: str = "int8.onnx", **changes) -> QuantizeConfig:
        quick = {"rounds": 1, "threads": 1, "batch_size": 8, "data": str(images)}
        values = {"checkpoint": str(trained_run / "best.pt"), "output": str(tmp_path / output), **quick, **changes}
        return QuantizeConfig(**values)

    return make


@pytest.mark.seconds
@pytest.mark.parametrize("output", ["int8.onnx", "int8.xml"])
def test_a_trained_network_keeps_its_accuracy_in_a_smaller_file_with_a_description(
    output, config, images, trained_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(quantize_module, "measure_apart", measure_apart)
    wanted = config(output, **({"checkpoint": str(trained_run)} if output == "int8.xml" else {}))
    made = quantize(wanted)
    assert made.comparison.images == 60 and made.comparison.float_percent > 90
    assert made.comparison.drop <= 0.5
    weights = Path(wanted.output).with_suffix(".onnx" if output == "int8.onnx" else ".bin")
    assert made.int8_layers > 40 and weights.stat().st_size < 0.6 * made.float_bytes
    assert [speed.batch for speed in made.speeds] == [1, 8]
    own = {Contender("fp32", wanted.backend), Contender("bf16", "openvino"), Contender("int8", wanted.backend)}
    natively = {Contender("bf16", "native")} if is_installed("native", "bf16") else set()
    if output == "int8.onnx" and is_installed("native", "fp32", int8=True):
        natively.add(Contender("int8", "native"))
    assert all(speed.ms.keys() == own | natively for speed in made.speeds)
    exported = read_exported(wanted.output)
    model = load(trained_run / "best.pt")
    assert (exported.precision, exported.classes, exported.preprocess) == ("int8", model.classes, model.preprocess)

    network = open_graph(wanted.output, Engine(backend=wanted.backend, threads=1))
    _, measured = labelled_splits(str(images), model)
    inputs = torch.stack([model.preprocess(measured.load(index)) for index in range(len(measured))])
    right = network(inputs).argmax(1) == torch.from_numpy(measured.targets)
    assert 100 * right.double().mean().item() == pytest.approx(made.comparison.int8_percent)


@pytest.fixture
def harmed(images, tmp_path) -> Path:
    """The labelled images, with black ones to calibrate on."""
    folder = tmp_path / "harmed"
    for name in ("cat", "dog", "fox"):
        (folder / "train" / name).mkdir(parents=True)
        Image.new("RGB", (48, 40)).save(folder / "train" / name / "black.png")
    (folder / "val").symlink_to(images / "val")
    return folder


@pytest.mark.slow
def test_black_calibration_images_are_refused_with_both_accuracies_and_no_file(config, harmed, capsys, tmp_path):
    wanted = config(data=str(harmed), max_drop=0.0)
    arguments = ["--data", wanted.data, "--output", wanted.output, "--max-drop", "0"]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        cli.main(["quantize", wanted.checkpoint, *arguments, "--threads", "1"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 1 and "nothing was written" in said
    assert (
        re.search(r"of 60 images correctly, and float32 \d+\.\d\d %, a drop of \d", said)
        and "--max-drop allows 0" in said
    )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.seconds
def test_one_calibration_image_is_logged_and_one_evaluation_image_refused(config, images, caplog, tmp_path):
    quantize(config(calibration_images=1, max_drop=100))
    alone = tmp_path / "alone" / "cat"
    alone.mkdir(parents=True)
    Image.new("RGB", (48, 40)).save(alone / "one.png")
    with pytest.raises(ValueError, match="has 0 images to compare both networks on, besides 1 to calibrate on"):
        quantize(config(data=str(alone.parent)))


@pytest.mark.seconds
def test_images_without_labels_need_the_measure_agreement(config, images, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((images / "val").rglob("*.[jp]*"))):
        (flat / f"{number}{path.suffix}").symlink_to(path)
    with pytest.raises(ValueError, match=r"60 images but no class folders.*; for images without labels, --measure"):
        quantize(config(data=str(flat)))
    made = quantize(config(data=str(flat), measure="agreement", max_drop=10))
    assert made.comparison.images == 48 and made.calibration_images == 12
    assert made.comparison.float_percent == 100 and made.comparison.gained == 0


@pytest.mark.seconds
def test_classes_are_matched_by_name(config, images, tmp_path):
    fewer = tmp_path / "fewer"
    for side, name in (("train", "fox"), ("val", "fox"), ("val", "dog")):
        (fewer / side).mkdir(parents=True, exist_ok=True)
        (fewer / side / name).symlink_to(images / side / name)
    # By place instead of by name none would be right; how many are depends on the processor that trained the network.
    assert quantize(config(data=str(fewer), max_drop=5)).comparison.float_percent > 75
    (fewer / "val" / "wolf").symlink_to(images / "val" / "cat")
    with pytest.raises(ValueError, match="has classes that the model does not know: wolf"):
        quantize(config(data=str(fewer)))


def test_the_drop_is_that_of_paired_images():
    targets = torch.zeros(200, dtype=torch.int64)
    before, after = torch.zeros(200, dtype=torch.int64), torch.zeros(200, dtype=torch.int64)
    before[:10], after[5:18] = 1, 1
    compared = Comparison.of(before, after, targets)
    assert (compared.lost, compared.gained) == (8, 5)
    assert (compared.float_percent, compared.int8_percent, compared.drop) == (95.0, 93.5, 1.5)
    differences = np.r_[np.ones(8), -np.ones(5), np.zeros(187)]
    assert compared.margin == pytest.approx(196 * differences.std() / np.sqrt(200))
    assert Comparison.of(before, before, targets).margin == 1.5


def test_a_slower_int8_is_advised_against():
    fp32, bf16, int8 = Contender("fp32", "onnxruntime"), Contender("bf16", "native"), Contender("int8", "onnxruntime")
    slower, faster = {fp32: [9.0], bf16: [3.0], int8: [4.0]}, {fp32: [9.0], bf16: [3.0], int8: [2.0]}
    one, many = Speed(batch=1, ms=slower), Speed(batch=16, ms=faster)
    assert "should not be used here" in advice([one, replace(many, ms=slower)])
    assert advice([one, many]).endswith("there, and int8 at batch 16")
    assert advice([replace(many, ms={**faster, fp32: [1.0]})]).startswith(
        "int8 (ONNX Runtime) is slower than float32 (ONNX Runtime) on this"
    )
    figures = "(2.00 against 3.00 ms at batch 16)"
    assert advice([many]) == f"int8 (ONNX Runtime) is faster than bf16 (native) on this machine {figures}"
    native = replace(many, ms={**slower, Contender("int8", "native"): [1.0]})
    assert advice([native]).startswith("int8 (native) is faster than bf16 (native)"), "the fastest int8 counts"


@pytest.mark.seconds
def test_the_command_advises_against_int8_that_does_not_pay_off(config, capsys, monkeypatch):
    monkeypatch.setattr(
        quantize_module,
        "measure_apart",
        lambda prepare, rounds, skip_failed: {
            each: Measured(times_ms=[{"int8": 2.0, "bf16": 1.0}.get(each.precision, 3.0)], peak_mib=None, result=None)
            for each in prepare
        },
    )
    wanted = config()
    cli.main(["quantize", wanted.checkpoint, "--data", wanted.data, "--output", wanted.output, "--max-drop", "5"])
    said = capsys.readouterr().out
    assert "int8 (ONNX Runtime) is slower than bf16 (OpenVINO) on this machine" in said
    assert "should not be used here; use bf16 (OpenVINO) instead" in said
    assert f"written: {wanted.output}" in said


def test_the_layers_in_int8_are_the_convolutions_that_the_engine_has_code_for(tiny_model):
    reference = onnx_graph(fold(tiny_model()))
    images = [torch.randn(1, 3, 16, 16) for _ in range(4)]
    for backend in ("onnxruntime", "openvino"):
        int8 = int8_graph(reference, images, backend)
        assert int8_layers(int8)[0] == "features.0"
        assert any(".fc." in name for name in int8_layers(int8)) == (backend == "onnxruntime")
        assert open_graph(int8.SerializeToString(), Engine(backend=backend, threads=1))(images[0]).isfinite().all()


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("output", "a.pt", "a name that ends in .onnx or .xml"),
        ("max_drop", -1, "0 to 100 points"),
        ("calibration_images", 0, "1 or more"),
    ],
)
def test_impossible_settings_are_refused(option, value, allowed, config):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} is {value}; allowed: {allowed}"):
        replace(config(), **{option: value})


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The names of image files, one each time one is decoded."""
    opened: list[str] = []

    def load(images: ImageSet, index: int) -> Image.Image:
        opened.append(images.name(index))
        return plain(images, index)

    plain = ImageSet.load
    monkeypatch.setattr(ImageSet, "load", load)
    return opened


@pytest.mark.seconds
def test_evaluation_images_are_decoded_once_for_both_networks(config, counted):
    quantize(config(max_drop=100))
    measured = [name for name in counted if "/val/" in name]
    assert len(measured) == len(set(measured)) == 60


@pytest.fixture
def wrong_in(monkeypatch) -> Callable[[str], None]:
    """wrong_in(backend): written files are off by a class in that engine, at batch 1 only."""

    def make(backend: str) -> None:
        def wrongly(graph, engine, **options):
            network = open_graph(graph, engine, **options)
            wrong = engine.backend == backend and isinstance(graph, Path)
            return lambda images: network(images).roll(1, dims=1) if wrong and len(images) == 1 else network(images)

        monkeypatch.setattr(quantize_module, "open_graph", wrongly)

    return make


@pytest.mark.seconds
def test_an_engine_that_is_wrong_is_recorded_and_never_used(config, images, wrong_in, capsys, caplog):
    wrong_in("openvino")
    wanted = config(max_drop=2)
    made = quantize(wanted)
    right = {name: check.right for name, check in made.engines.items()}
    assert right.pop("native", True) and right == {"onnxruntime": True, "openvino": False}
    assert made.engines["openvino"].percent < 10 < 90 < made.engines["openvino"].float_percent
    assert "wrong in openvino" in caplog.text and read_exported(wanted.output).engines == made.engines
    photo = str(next((images / "val" / "cat").iterdir()))
    with pytest.raises(SystemExit):
        cli.main(["predict", wanted.output, photo, "--backend", "openvino"])
    said = capsys.readouterr().err
    assert re.search(
        r"wrong in openvino: .* it predicted \d\.\d % .*, and float32 \d+\.\d %; allowed: onnxruntime( or native)?$",
        said,
        re.M,
    )
    predictor = Predictor(wanted.output, threads=1)
    assert predictor.engine.backend in ("onnxruntime", "native") and predictor(photo)[0].best.name == "cat"


@pytest.mark.seconds
def test_an_int8_file_runs_natively_as_exactly_as_the_gate_measured(config, images):
    if not is_installed("native", "fp32", int8=True):
        pytest.skip("the native engine does not run int8 here")
    wanted = config()
    made = quantize(wanted)
    assert made.engines["native"].right
    facts = read_exported(wanted.output)
    assert facts.backends(".onnx") == ("onnxruntime", "openvino", "native")
    _, measured = labelled_splits(str(images), load(Path(wanted.checkpoint)))
    predictor = Predictor(wanted.output, backend="native", threads=2)
    found = predictor([measured.load(index) for index in range(len(measured))])
    names = [made.best.name == facts.classes[target] for made, target in zip(found, measured.targets, strict=True)]
    assert 100 * sum(names) / len(names) >= made.comparison.float_percent - wanted.max_drop
    with pytest.raises(ValueError, match="--precision is bf16; allowed: auto for an int8 file in native"):
        Predictor(wanted.output, backend="native", precision="bf16")


@pytest.mark.seconds
def test_a_file_that_is_wrong_in_its_own_engine_is_not_written(config, wrong_in, tmp_path):
    wrong_in("onnxruntime")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"wrong in ONNX Runtime, and nothing was written: at batch 1 or 8"):
        quantize(config(max_drop=2))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.seconds
def test_a_network_that_the_native_engine_does_not_compute_is_quantised_without_it(config, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("not computed there")

    monkeypatch.setattr(quantize_module, "open_native", refuse)
    assert "native" not in quantize(config()).engines


def test_an_int8_file_that_was_never_compared_runs_in_its_own_engine_only():
    facts = ExportedFile(classes=(), preprocess=Preprocess(), config=model_config("rexnet_010"), precision="int8")
    assert ExportedFile.from_dict({key: value for key, value in facts.to_dict().items() if key != "engines"}) == facts
    assert (facts.backends(".onnx"), facts.backends(".xml")) == (("onnxruntime",), ("openvino",))
    with pytest.raises(WeightsError, match=r"'a\.onnx' was not checked in openvino; allowed: onnxruntime"):
        facts.refuse_wrong("openvino", "a.onnx")
    assert replace(facts, precision="fp32").backends(".onnx") == ("onnxruntime", "openvino", "native")
    with pytest.raises(WeightsError, match=r"'a\.onnx' was not checked in native; allowed: onnxruntime"):
        facts.refuse_wrong("native", "a.onnx")
    with pytest.raises(WeightsError, match=r"native cannot open 'a\.xml'; allowed: openvino"):
        facts.refuse_wrong("native", "a.xml")


@pytest.mark.seconds
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_maps_of_one_position_are_right_in_every_engine_alone_and_together(backend):
    torch.manual_seed(0)
    config = model_config("rexnet_050", num_classes=10)
    model = with_measured_statistics(RexNet(replace(config, blocks=config.blocks[:8])), size_px=8)
    images = image_batch(8)
    reference = onnx_graph(fold(pad(model, 8)))
    int8 = int8_graph(reference, list(images.split(1)), backend).SerializeToString()
    expected = open_graph(int8, Engine(backend="onnxruntime", threads=1))(images)
    spread = float((expected - expected.mean(dim=0)).abs().max())
    # Other programs leave the shape open in OpenVINO, for which the .xml file is made.
    for any_shape in {False, backend == "openvino"}:
        network = open_graph(int8, Engine(backend="openvino", threads=1), any_shape=any_shape)
        for size in (1, len(images)):
            found = torch.cat([network(part) for part in images.split(size)])
            assert float((found - expected).abs().max()) < 0.5 * spread, (any_shape, size)
