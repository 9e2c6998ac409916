import json
import logging
import pickle
import sys
import weakref
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import rexnet
from rexnet import cli
from rexnet.data.decode import open_image
from rexnet.data.imagenet import imagenet_classes
from rexnet.data.preprocess import Preprocess
from rexnet.deploy import engine_choice
from rexnet.deploy.class_predictor import ClassPredictor, ScoredClass
from rexnet.deploy.classifiers import ExportedFile
from rexnet.deploy.predict import PredictConfig, predict_files, render
from rexnet.deploy.predictor import Prediction, Predictor
from rexnet.detection.checkpoints import TrainedDetector, pack
from rexnet.detection.detectors import create_detector
from rexnet.engines import backends
from rexnet.engines.graph_files import write_graph
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.errors import BadImageError
from rexnet.loading import load_network
from rexnet.models.inference_form import fold
from rexnet.references import resolve
from rexnet.training import checkpoint
from tests.drawings import draw, odd_images
from tests.networks import need_engine

CLASSES = ("cat", "dog, or wolf", "füchse")


ENGINES = [("torch", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
ENGINES += [("native", "fp32"), ("native", "bf16")]


@pytest.fixture
def checkpoint_file(tiny_model, tmp_path):
    """Of a network whose answers differ from image to image as those of a trained one do."""
    preprocess = Preprocess(image_size_px=16, crop_ratio=0.9)
    model = tiny_model(drop_rate=0.0, drop_path_rate=0.0)
    torch.nn.init.normal_(model.get_classifier().weight, std=0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(torch.stack([preprocess(open_image(content)) for content in odd_images().values()]))
    path = tmp_path / "best.pt"
    checkpoint.save(path, checkpoint.pack(model, classes=CLASSES, preprocess=preprocess, metrics={}))
    return path


@pytest.fixture
def exported(checkpoint_file) -> Callable[..., Path]:
    """exported(".onnx", pixels=True): a file as `rexnet export` makes it, of that checkpoint."""

    def export(suffix, *, pixels=False, classes=CLASSES, output="logits"):
        model = rexnet.load(checkpoint_file)
        described = ExportedFile(
            classes=classes, preprocess=model.preprocess, config=model.config, pixels=pixels, output=output
        )
        graph = onnx_graph(fold(model), output=output, pixels=model.preprocess if pixels else None)
        path = checkpoint_file.with_name(f"{output}{suffix}")
        if suffix == ".xml":
            pytest.importorskip("openvino")
        if suffix in (".onnx", ".xml"):
            write_graph(graph, described.to_dict(), path)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a/extra/rexnet", json.dumps(described.to_dict()))
        return path

    return export


@pytest.fixture
def predictor(checkpoint_file) -> Predictor:
    """In PyTorch on one thread, four images a call."""
    return with_chunks(Predictor(checkpoint_file, backend="torch", threads=1, device="cpu"))


def with_chunks(predictor: Predictor, chunk: int = 4) -> Predictor:
    """Instead of those that are measured."""
    cast(ClassPredictor, predictor._runtime)._chunk = chunk
    return predictor


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "with space"
    (folder / "deep").mkdir(parents=True)
    for index, kind in enumerate(("cat", "dog", "fox", "cat", "dog")):
        draw(kind, index, (40 + 7 * index, 64 - 5 * index)).save(folder / "deep" / f"{index} é.png")
    return folder


def same(found: Sequence[Prediction], expected: Sequence[Prediction], tolerance: float = 1e-4) -> bool:
    """The same best names, and probabilities of all classes within `tolerance`."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        mine, right = ({scored.name: scored.probability for scored in p.classes} for p in (one, other))
        assert one.best.name == other.best.name and mine == pytest.approx(right, abs=tolerance)
    return True


def test_a_prediction_depends_neither_on_the_batch_nor_on_the_source(predictor, images):
    files = sorted((images / "deep").iterdir())
    together = predictor(files)
    assert [prediction.image for prediction in together] == [str(file) for file in files]
    probabilities = [scored.probability for scored in together[0].classes]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1)
    assert len({scored.best.probability for scored in together}) == 5, "all alike would prove nothing"
    for file, expected in zip(files, together, strict=True):
        array = np.asarray(open_image(file))
        tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
        for source in (str(file), file, file.read_bytes(), Image.fromarray(array), array, tensor, [file], array[None]):
            assert same(predictor(source), [expected])
    everything = chain(files, (file.read_bytes() for file in files))
    assert same(list(predictor.stream(everything)), together * 2)


@pytest.mark.parametrize("backend,precision", ENGINES)
def test_every_engine_predicts_the_same_for_odd_files(backend, precision, checkpoint_file, predictor, tmp_path):
    need_engine(backend, precision)
    files = []
    for name, content in odd_images().items():
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    expected = predictor(files)
    assert len(files) == 20 and {p.best.name for p in expected} == set(CLASSES)
    engine = {"backend": backend, "precision": precision, "threads": 2}
    other = with_chunks(Predictor(checkpoint_file, **engine, device="cpu"))
    assert other.engine.backend == backend and other.engine.precision == precision
    assert same(other(files), expected, 1e-4 if precision == "fp32" else 0.05)
    assert same(other(files[:3]), expected[:3], 1e-4 if precision == "fp32" else 0.05), "fewer than calls have room for"


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize(
    ("suffix", "backend"),
    [(".onnx", "onnxruntime"), (".onnx", "openvino"), (".onnx", "native"), (".xml", "openvino")],
)
def test_exported_files_predict_the_same(suffix, backend, pixels, exported, predictor, images):
    need_engine(backend)
    files = sorted((images / "deep").iterdir())
    other = with_chunks(Predictor(exported(suffix, pixels=pixels), backend=backend, threads=1))
    assert same(other(files), predictor(files))


def test_exported_files_without_names_number_their_classes(exported, predictor, images):
    file = next((images / "deep").iterdir())
    unnamed = Predictor(exported(".onnx", classes=()), backend="onnxruntime", threads=1)
    assert CLASSES[int(unnamed(file)[0].best.name)] == predictor(file)[0].best.name


def test_files_that_cannot_predict_are_refused_in_one_sentence(exported, checkpoint_file):
    for source, options, sentence in (
        (exported(".pt2"), {}, "can run arbitrary code when PyTorch opens it"),
        (exported(".onnx", output="embedding"), {}, "outputs embedding; predictions need a file that outputs logits"),
        (
            exported(".onnx"),
            {"backend": "torch"},
            "torch cannot open .*.onnx'; allowed: onnxruntime or open",
        ),
        (exported(".xml"), {"backend": "onnxruntime"}, "onnxruntime cannot open .*.xml'; allowed: openvino"),
        (checkpoint_file, {"classes": CLASSES}, "classes and preprocess were given for a model"),
        (checkpoint_file, {"threads": 0}, "threads is 0; allowed: 1 or more, or None"),
        (checkpoint_file, {"backend": "tvm"}, "backend is 'tvm'; allowed: torch, compile, onnxruntime, openvino"),
        (checkpoint_file.with_name("none.pt"), {}, r"none\.pt"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Predictor(source, **{"device": "cpu", **options})


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_an_engine_that_is_not_installed_is_named(package, checkpoint_file, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs the package {package}: pip install 'rexnet\[deploy\]'"):
        Predictor(checkpoint_file, backend=package)


def test_auto_measures_once_and_predicts_the_same(checkpoint_file, predictor, images, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(engine_choice, "cache_folder", lambda: tmp_path / "cache")
    caplog.set_level(logging.INFO, "rexnet")
    files = sorted((images / "deep").iterdir())
    for when in ("now", "before"):
        assert same(Predictor(checkpoint_file, threads=1, device="cpu")(files), predictor(files))
        assert caplog.text.count("engine, measured now: ") == 1, when


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_requested_engine_must_agree_with_pytorch_too(backend, checkpoint_file, monkeypatch):
    right = backends.onnx_graph
    monkeypatch.setattr(backends, "onnx_graph", lambda model: right(_with_other_classifier(model)))
    with pytest.raises(ValueError, match=f"probabilities of {backend} fp32 differ by .* from those of torch"):
        Predictor(checkpoint_file, backend=backend, threads=1)


def _with_other_classifier(model):
    model = deepcopy(model)
    with torch.no_grad():
        model.get_classifier().weight.neg_()
    return model


def test_compiling_needs_a_compiler(checkpoint_file, monkeypatch):
    def compile(*_, **__):
        def run(images):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nin many lines")

        return run

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler \(InvalidCxx.*\); allowed: torch"):
        Predictor(checkpoint_file, backend="compile", threads=1, device="cpu")


@pytest.mark.slow
def test_a_compiled_network_predicts_the_same(checkpoint_file, predictor, images):
    files = sorted((images / "deep").iterdir())
    compiled = Predictor(checkpoint_file, backend="compile", threads=1, device="cpu")
    assert same(compiled(files), predictor(files)) and same(compiled(files[:3]), predictor(files[:3]))


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino", "native"])
def test_many_threads_get_the_same_answers(backend, checkpoint_file, predictor, images):
    need_engine(backend)
    files = sorted((images / "deep").iterdir())
    expected = predictor(files)
    shared = with_chunks(Predictor(checkpoint_file, backend=backend, threads=2, device="cpu"), 1)
    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(lambda n: shared(files[: n % 5 + 1]), range(24))):
            assert same(found, expected[: number % 5 + 1])


@pytest.mark.seconds
@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_images_is_predicted_in_constant_memory(threads, predictor, images):
    alive: weakref.WeakSet = weakref.WeakSet()
    runtime: Any = predictor._runtime
    runtime._workers, runtime._many = threads, lambda images: images.flatten(1)[:, :3]
    runtime.prepare = lambda image: torch.zeros(3)
    name = str(next((images / "deep").iterdir()))

    class File:
        def __init__(self):
            alive.add(self)

        def __fspath__(self):
            return name

    most, found = 0, []
    for prediction in predictor.stream((File() for _ in range(10_000)), top_k=1):
        most = max(most, len(alive))
        found.append(prediction.image == name)
    assert sum(found) == 10_000 and most <= 8 * threads + 4 * (threads + 4), (
        "those looked at first; in fours, those ahead, at work and in hand"
    )


def test_a_prediction_equals_that_of_the_loaded_model(checkpoint_file, images):
    model = rexnet.load(checkpoint_file)
    file = next((images / "deep").iterdir())
    with Image.open(file) as image, torch.no_grad():
        logits = model(model.preprocess(image.convert("RGB"))[None])
    (prediction,) = Predictor(checkpoint_file, backend="torch", threads=1, device="cpu")([file])
    assert prediction.best.name == model.classes[logits.argmax()]
    assert prediction.best.probability == pytest.approx(logits.softmax(1).max().item(), abs=1e-5)


def test_objects_that_are_not_images_are_refused_and_never_skipped(predictor):
    for wrong in (torch.zeros(3, 48, 48), np.zeros((48, 48)), None, 3, [[None]]):
        with pytest.raises(ValueError, match=r"; allowed: uint8|allowed: a path, the bytes") as refused:
            list(predictor.stream(wrong, bad_image="skip"))
        assert not isinstance(refused.value, BadImageError), "nothing to skip: the caller is wrong, not the file"
    assert predictor([]) == []
    with pytest.raises(ValueError, match="top_k is 0; allowed: 1 or more"):
        predictor("a.jpg", top_k=0)
    for wrong in (torch.zeros(3, 16, 16), np.zeros((1, 3, 16, 16), np.float32)):
        with pytest.raises(ValueError, match="allowed: a batch of results of prepare"):
            predictor.probabilities(wrong)


@pytest.mark.parametrize("format", ["json", "csv"])
def test_names_that_are_not_utf8_are_escaped(format):
    prediction = Prediction(image="\udce9.jpg", classes=(ScoredClass(name="\udce9t\udce9", probability=1.0),))
    text = render([prediction], format).encode().decode()
    assert "udce9.jpg" in text and "udce9t" in text


def test_bad_images_stop_the_command_or_are_listed_in_place(checkpoint_file, images):
    bad = images / "a torn.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 torn")
    config = {"checkpoint": str(checkpoint_file), "images": (str(images),), "threads": 1}
    with pytest.raises(BadImageError, match=r"a torn\.jpg"):
        predict_files(PredictConfig(**config))
    predictions = predict_files(PredictConfig(**config, bad_image="skip"))
    assert len(predictions) == 6
    assert [prediction.image for prediction in predictions if prediction.error] == [str(bad)]
    with pytest.raises(ValueError, match=r"no prediction for .*a torn\.jpg"):
        _ = predictions[0].best


def test_formats_have_the_same_content(checkpoint_file, images):
    import csv
    import io

    (images / "torn.jpg").write_bytes(b"")
    config = PredictConfig(checkpoint=str(checkpoint_file), images=(str(images),), bad_image="skip", top_k=2, threads=1)
    predictions = predict_files(config)
    rows = list(csv.DictReader(io.StringIO(render(predictions, "csv"))))
    items = json.loads(render(predictions, "json"))
    lines = render(predictions, "text").splitlines()
    assert len(rows) == len(items) == len(lines) == 6
    for row, item, prediction in zip(rows, items, predictions, strict=True):
        assert row["image"] == item["image"] == prediction.image
        if prediction.error:
            assert row["error"] == item["error"] == prediction.error and row["class_1"] == ""
        else:
            assert row["class_1"] == item["predictions"][0]["class"] == prediction.best.name
            assert float(row["probability_2"]) == item["predictions"][1]["probability"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": ()}, "no images given"),
        ({"csv": True, "json": True}, "--csv and --json exclude each other"),
        ({"top_k": 0}, "--top-k is 0; allowed: 1 or more"),
        ({"threads": 0}, "--threads is 0; allowed: 1 or more"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "precision is 'bf16'; onnxruntime computes in fp32 here"),
        ({"device": "tpu"}, "--device is 'tpu'"),
        ({"images": ("nowhere.jpg",)}, "nowhere.jpg does not exist"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(checkpoint_file, images, changes, message):
    with pytest.raises(ValueError, match=message):
        options = {"checkpoint": str(checkpoint_file), "images": (str(images),), **changes}
        predict_files(PredictConfig(**options))


def test_a_network_in_memory_needs_class_names(tiny_model, checkpoint_file, images):
    file = next((images / "deep").iterdir())
    loaded = rexnet.load(checkpoint_file)
    found = Predictor(loaded.train(), backend="torch", threads=1)(file)
    assert loaded.training and same(found, Predictor(checkpoint_file, backend="torch", threads=1)(file))
    with pytest.raises(ValueError, match="2 class names given for a model of 3 classes"):
        Predictor(tiny_model(), classes=("a", "b"), preprocess=Preprocess())
    with pytest.raises(ValueError, match="does not have the attributes"):
        Predictor(tiny_model(), classes=CLASSES)


def test_nothing_readable_is_listed_and_an_error(checkpoint_file, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO, "rexnet")  # which puts back at the end what the command sets
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").symlink_to("nowhere")
    output = tmp_path / "out.json"
    for words, shown in (([], 2), (["--output", str(output)], 0)):
        with pytest.raises(SystemExit) as stop:
            cli.main(["predict", str(checkpoint_file), str(tmp_path), "--bad-image", "skip", "--threads", "1", *words])
        said = capsys.readouterr()
        assert stop.value.code == 1 and "none of 2 files can be read; the first: " in said.err
        assert said.out.count("skipped: ") == shown
    assert [sorted(item) for item in json.loads(output.read_text())] == [["error", "image", "predictions"]] * 2


def test_a_network_with_non_finite_output_predicts_no_class(tiny_model, images):
    model = tiny_model()
    torch.nn.init.constant_(model.get_classifier().bias, float("nan"))
    preprocess = Preprocess(image_size_px=16)
    predictor = Predictor(model, classes=CLASSES, preprocess=preprocess, backend="torch", threads=1)
    with pytest.raises(ValueError, match="not finite"):
        predictor(next((images / "deep").iterdir()))


@pytest.mark.parametrize("kind", ["run", "timm", "detector"])
def test_a_pickled_predictor_predicts_the_same(kind, checkpoint_file, images):
    model: Any = checkpoint_file.parent if kind == "run" else "timm/test_resnet"
    if kind == "detector":
        torch.manual_seed(0)
        detector = create_detector("ssdlite", backbone="rexnet_010", num_classes=3, min_size_px=64, max_size_px=64)
        model = TrainedDetector(detector.eval(), CLASSES, (1, 2, 3))
    elif kind == "timm":
        model = load_network(resolve(model))
        model.classes = tuple(map(str, range(1000)))
    options = {} if kind == "detector" else {"backend": "torch"}
    predictor = Predictor(model, threads=1, device="cpu", **options)
    copied = pickle.loads(pickle.dumps(predictor))
    file = next((images / "deep").iterdir())
    assert copied.task == predictor.task and copied.classes == predictor.classes
    if kind != "detector":
        assert same(copied(file), predictor(file))
        return
    (found,), (again,) = predictor(file), copied(file)
    assert torch.equal(found.boxes, again.boxes) and found.names == again.names and len(found.scores) > 0


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_networks_of_timm_predict_in_every_engine(backend, images):
    torch.manual_seed(0)
    model = load_network(resolve("timm/test_resnet"))
    model.classes = tuple(map(str, range(1000)))
    file = next((images / "deep").iterdir())
    with torch.inference_mode():
        right = model(model.preprocess(open_image(file))[None]).softmax(1)[0]
    (found,) = Predictor(model, backend=backend, threads=1, device="cpu")(file, top_k=1000)
    for scored in found.classes:
        assert scored.probability == pytest.approx(float(right[int(scored.name)]), abs=1e-5)


def test_an_official_file_predicts_with_the_names_of_imagenet(images, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO, "rexnet")
    torch.manual_seed(0)
    torch.save(rexnet.create_model("rexnet_050").state_dict(), tmp_path / "half.pth")
    cli.main(["predict", str(tmp_path / "half.pth"), str(images), "--json", "--backend", "torch", "--threads", "1"])
    predicted = json.loads(capsys.readouterr().out)
    names = {scored["class"] for image in predicted for scored in image["predictions"]}
    assert len(predicted) == 5 and names <= set(imagenet_classes(1000))


def test_no_network_predicts_at_random(images, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", "rexnet_050", str(images)])
    assert stop.value.code == 1 and "no published weights of rexnet_050" in capsys.readouterr().err


def test_a_detectors_results(tmp_path, images, capsys):
    torch.manual_seed(0)
    detector = create_detector("mask_rcnn", backbone="rexnet_010", num_classes=3, min_size_px=64, max_size_px=64)
    content = pack(detector.eval(), {}, classes=CLASSES, category_ids=(1, 2, 3))
    checkpoint.save(tmp_path / "best.pt", content)
    file = next((images / "deep").iterdir())
    predictor = Predictor(tmp_path, threads=1)
    (found,) = predictor(file)
    count = len(found.scores)
    assert predictor.task == "detection" and predictor.category_ids == (1, 2, 3) and count > 0
    size = open_image(file).size
    assert found.boxes.shape == (count, 4) and found.masks.shape == (count, size[1], size[0])
    assert found.masks.dtype == torch.bool and len(found.names) == count and set(found.names) <= set(CLASSES)
    assert len(repr(found)) < 200 and found.names[0] in repr(found)
    found.save(tmp_path / "plot.png", min_score=0.0)
    with Image.open(tmp_path / "plot.png") as plot, found.plot(min_score=0.0) as expected:
        assert plot.tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match="--backend is torch; allowed: auto for a detector"):
        Predictor(tmp_path, backend="torch")
    with pytest.raises(SystemExit):
        cli.main(["predict", str(tmp_path), str(file)])
    assert "rexnet detect predict" in capsys.readouterr().err
