"""Exported files, as their users meet them."""

import logging
import os
from dataclasses import replace

import numpy as np
import onnxruntime
import openvino
import pytest
import timm
import torch
from PIL import Image

from rexnet import cli
from rexnet.data.decode import open_image
from rexnet.data.preprocess import Preprocess
from rexnet.deploy import graph_writing
from rexnet.deploy.bench import find_subject
from rexnet.deploy.classifiers import read_exported
from rexnet.deploy.export import ExportConfig, ExportOptions, export, export_files
from rexnet.deploy.predictor import Predictor
from rexnet.engines.graph_files import sample_images
from rexnet.errors import WeightsError
from rexnet.models.inference_form import fold
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import model_config
from rexnet.training import checkpoint
from tests.drawings import draw
from tests.networks import with_measured_statistics

CLASSES = ("cat", "dog, or wolf", "füchse")
PREPROCESS = Preprocess(image_size_px=24, crop_ratio=0.9, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture
def model(tiny_model) -> RexNet:
    return with_measured_statistics(tiny_model(), size_px=24)


@pytest.fixture
def checkpoint_file(model, tmp_path):
    path = tmp_path / "best.pt"
    checkpoint.save(path, checkpoint.pack(model, classes=CLASSES, preprocess=PREPROCESS, metrics={}))
    return path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "odd images"
    folder.mkdir()
    for index, kind in enumerate(("cat", "dog", "fox", "cat")):
        draw(kind, index, (30 + 17 * index, 64 - 9 * index)).save(folder / f"{index} é.png")
    noise = np.random.default_rng(1).integers(256, size=(90, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.jpg")
    return folder


def run_plainly(path, images: np.ndarray) -> list[np.ndarray]:
    """Without any code of this package."""
    if path.suffix == ".onnx":
        return onnxruntime.InferenceSession(str(path)).run(None, {"images": images})
    if path.suffix == ".xml":
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return list(compiled([images]).values())
    with torch.no_grad():
        return [found.numpy() for found in torch.export.load(path).module()(torch.from_numpy(images))]


@pytest.mark.seconds
@pytest.mark.parametrize("ending", ["onnx", "xml", "pt2"])
def test_the_file_contains_the_whole_network_and_the_model_is_unchanged(ending, model, images, tmp_path):
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folder = tmp_path / "out"
    folder.mkdir()
    options = ExportOptions(pixels=True, verify=str(images))
    made = export(model, folder / f"a.{ending}", options, classes=CLASSES, preprocess=PREPROCESS)
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    expected_files = {"a.xml", "a.bin"} if ending == "xml" else {f"a.{ending}"}
    assert set(os.listdir(folder)) == expected_files
    assert made.difference < 1e-4 and made.bytes == sum(file.stat().st_size for file in folder.iterdir())
    elsewhere = folder.rename(tmp_path / "elsewhere") / f"a.{ending}"
    said = read_exported(elsewhere)
    assert (said.classes, said.preprocess, said.config, said.pixels) == (CLASSES, PREPROCESS, model.config, True)
    opened = [open_image(file) for file in sorted(images.iterdir())]
    with torch.no_grad():
        expected = model.eval()(torch.stack([said.preprocess(image) for image in opened])).numpy()
    for batch in (1, 5):
        pixels = np.stack([said.preprocess.pixels(image) for image in opened[:batch]])
        (found,) = run_plainly(elsewhere, pixels)
        np.testing.assert_allclose(found, expected[:batch], atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.seconds
@pytest.mark.parametrize("ending", ["onnx", "xml", "pt2"])
def test_a_file_for_small_images_takes_any_batch_and_size(ending, tmp_path):
    torch.manual_seed(0)
    config = model_config("rexnet_010", num_classes=4)
    model = with_measured_statistics(RexNet(replace(config, blocks=config.blocks[:8])))
    path = tmp_path / f"a.{ending}"
    export(model, path, classes=tuple("abcd"), preprocess=Preprocess(image_size_px=16))
    for shape in ((1, 3, 16, 16), (3, 3, 16, 16), (1, 3, 40, 33), (2, 3, 96, 48)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = model(images).numpy()
        np.testing.assert_allclose(run_plainly(path, images.numpy())[0], expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_maps_and_embeddings(ending, model, tmp_path):
    images = torch.randn(2, 3, 24, 32)
    with torch.no_grad():
        maps = list(model.feature_maps(images.clone()).values())
        embedding = model.forward_head(model.forward_features(images.clone()), pre_logits=True)
    for layer, expected in (("features", maps), ("embedding", [embedding])):
        path = tmp_path / f"{layer}.{ending}"
        export(model, path, ExportOptions(output_layer=layer), preprocess=PREPROCESS)
        assert read_exported(path).output == layer
        for found, wanted in zip(run_plainly(path, images.numpy()), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


@pytest.mark.seconds
@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_a_graph_that_differs_is_not_written_and_older_files_stay(ending, model, tiny_model, tmp_path, monkeypatch):
    path = tmp_path / f"a.{ending}"
    export(model, path, preprocess=PREPROCESS)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    other, write = with_measured_statistics(tiny_model(1), size_px=24), graph_writing.onnx_graph
    monkeypatch.setattr(graph_writing, "onnx_graph", lambda model, **more: write(fold(other), **more))
    with pytest.raises(
        ValueError, match=r"differ by .* of the largest output for a batch of 1 at 24 px in \w+; allowed"
    ):
        export(model, path, ExportOptions(overwrite=True), preprocess=PREPROCESS)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_diverged_network_is_refused_and_a_constant_one_is_logged(model, tiny_model, tmp_path, caplog):
    torch.nn.init.constant_(model.get_classifier().weight, 0.0)
    export(model, tmp_path / "a.onnx", preprocess=PREPROCESS)
    assert caplog.text.count("nearly the same output for any") == 1
    torch.nn.init.constant_(model.get_classifier().bias, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        export(model, tmp_path / "b.onnx", preprocess=PREPROCESS)
    assert os.listdir(tmp_path) == ["a.onnx"]


@pytest.mark.seconds
def test_from_a_name_with_weights_and_from_a_checkpoint(checkpoint_file, tmp_path, capsys, caplog, monkeypatch):
    reads, read = [], checkpoint.read_checkpoint_file
    monkeypatch.setattr(checkpoint, "read_checkpoint_file", lambda path: reads.append(path) or read(path))
    caplog.set_level(logging.INFO, "rexnet")
    cli.main(["export", str(checkpoint_file), "--output", str(tmp_path / "a.onnx")])
    assert "logits of 3 classes" in capsys.readouterr().out and len(reads) == 1
    assert read_exported(tmp_path / "a.onnx").classes == CLASSES
    name = ["rexnet_010", "--output", str(tmp_path / "b.onnx"), "--output-layer", "features"]
    cli.main(["export", *name])
    assert "has random weights" in caplog.text and read_exported(tmp_path / "b.onnx").classes == ()
    with pytest.raises(SystemExit):
        cli.main(["export", *name, "--overwrite", "--weights", str(checkpoint_file)])
    assert "but the model is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["{best}", "--output", "{dir}/a.tflite"], 2, "--output is .*; allowed: names that end in .onnx"),
        (["{best}", "--output", "{dir}/a.onnx", "--format", "openvino"], 2, "--format is openvino with .*: onnx"),
        (["{best}", "--output", "{dir}/no/a.onnx"], 1, "there is no folder"),
        (["{best}", "--output", "{dir}/there.xml"], 1, r"there\.bin' already exists; --overwrite replaces it"),
        (["{best}", "--output", "{dir}/a.pte"], 2, r"a\.pte; allowed: .*ExecuTorch's own tools read \.pt2"),
        (["{best}", "--output", "{dir}/a.mlpackage"], 2, r"a\.mlpackage; allowed: .*Core ML"),
        (["{best}", "--output", "{dir}/a.engine"], 2, r"a\.engine; allowed: .*TensorRT"),
        (
            ["{best}", "--output", "{dir}/a.onnx", "--weights", "{best}"],
            2,
            r"--weights is .*best\.pt; allowed: None for a model",
        ),
        (["{best}", "--output", "{dir}/a.onnx", "--channel-multiple", "0"], 2, "channel-multiple is 0; allowed: 1"),
        (
            ["{best}", "--output", "{dir}/a.onnx", "--channel-multiple", "8", "--output-layer", "features"],
            *(2, "--channel-multiple is 8; allowed: 1 with --output-layer features"),
        ),
        (["{best}", "--output", "{dir}/a.onnx", "--verify", "{dir}/no"], 1, "no does not exist"),
        (["{dir}/no.pt", "--output", "{dir}/a.onnx"], 1, r"no\.pt"),
        (["{dir}/evil.pt", "--output", "{dir}/a.onnx"], 1, r"evil\.pt"),
        (["rexnet_1", "--output", "{dir}/a.onnx"], 2, "'rexnet_1'"),
    ],
)
def test_impossible_exports_are_refused_and_leave_no_file(words, code, sentence, checkpoint_file, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sentinel"),)

    (tmp_path / "there.bin").write_bytes(b"")
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    before = set(os.listdir(tmp_path))
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", *(word.format(best=checkpoint_file, dir=tmp_path) for word in words)])
    said = capsys.readouterr().err
    assert stop.value.code == code and set(os.listdir(tmp_path)) == before
    assert len(said.strip().splitlines()) == 1
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(said)


def test_a_detectors_file_is_not_a_classifiers(tmp_path, model):
    from rexnet.engines.graph_files import describe_onnx, import_onnx

    export(model, tmp_path / "a.onnx", preprocess=PREPROCESS)
    graph = import_onnx().load(tmp_path / "a.onnx")
    describe_onnx(graph, {"task": "detection"})
    import_onnx().save(graph, tmp_path / "a.onnx")
    with pytest.raises(WeightsError, match="holds a detector"):
        read_exported(tmp_path / "a.onnx")


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_networks_of_timm_are_exported_and_predict(suffix, pixels, tmp_path):
    torch.manual_seed(0)
    theirs = with_measured_statistics(timm.create_model("test_resnet", num_classes=7)).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    config = ExportConfig(
        model="timm/test_resnet",
        weights=str(tmp_path / "w.pth"),
        output=str(tmp_path / f"m{suffix}"),
        options=ExportOptions(pixels=pixels),
    )
    exported = export_files(config)
    assert "timm/test_resnet" in exported.describe()
    images = sample_images(None)
    direct = Predictor(tmp_path / "w.pth", network="timm/test_resnet", backend="torch", threads=1, device="cpu")
    backend = "onnxruntime" if suffix == ".onnx" else "openvino"
    found = Predictor(config.output, backend=backend, threads=1)(images)
    for one, other in zip(found, direct(images), strict=True):
        mine, right = ({scored.name: scored.probability for scored in each.classes} for each in (one, other))
        assert mine == pytest.approx(right, abs=1e-4)
    assert find_subject(config.output).pixels == pixels


def test_a_run_folder_is_exported(trained_run, tmp_path):
    exported = export_files(ExportConfig(model=str(trained_run), output=str(tmp_path / "m.onnx")))
    assert Predictor(tmp_path / "m.onnx", backend="onnxruntime").classes == ("cat", "dog", "fox")
    assert exported.describe().count("\n") == 1
