import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

import rexnet
from rexnet import cli
from rexnet.data.decode import BadImageError
from rexnet.data.transforms import Preprocess
from rexnet.deploy.predict import PredictConfig, predict_files, render
from rexnet.deploy.runtime import Predictor
from rexnet.training import checkpoint
from tests.drawings import draw

CLASSES = ("cat", "dog, or wolf", "füchse")


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory):
    torch.manual_seed(0)
    model = rexnet.create_model("rexnet", width=0.3, num_classes=3)
    preprocess = Preprocess(image_size_px=48, crop_ratio=0.9)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    checkpoint.save(path, checkpoint.pack(model, classes=CLASSES, preprocess=preprocess, metrics={}))
    return path


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "with space"
    (folder / "deep").mkdir(parents=True)
    for index, kind in enumerate(("cat", "dog", "fox", "cat", "dog")):
        draw(kind, index, (40 + 7 * index, 64 - 5 * index)).save(folder / "deep" / f"{index} é.png")
    return folder


def test_an_image_is_judged_alone_and_the_source_does_not_matter(checkpoint_file, pictures):
    predictor = Predictor.load(checkpoint_file)
    files = sorted((pictures / "deep").iterdir())
    together = predictor(files)
    for file, expected in zip(files, together, strict=True):
        with Image.open(file) as picture:
            sources = [str(file), file.read_bytes(), picture.convert("RGB")]
        for source in sources:
            (alone,) = predictor([source])
            assert alone.best.name == expected.best.name
            assert alone.best.probability == pytest.approx(expected.best.probability, abs=1e-5)
    assert [prediction.image for prediction in together] == [str(file) for file in files]
    probabilities = [scored.probability for scored in together[0].classes]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1)


def test_prediction_is_what_the_loaded_model_says(checkpoint_file, pictures):
    model = rexnet.load(checkpoint_file)
    file = next((pictures / "deep").iterdir())
    with Image.open(file) as picture, torch.no_grad():
        logits = model(model.preprocess(picture.convert("RGB"))[None])
    (prediction,) = Predictor.load(checkpoint_file)([file])
    assert prediction.best.name == model.classes[logits.argmax()]
    assert prediction.best.probability == pytest.approx(logits.softmax(1).max().item(), abs=1e-5)


def test_pictures_in_other_modes_and_single_images_are_refused(checkpoint_file, pictures):
    predictor = Predictor.load(checkpoint_file)
    with pytest.raises(ValueError, match="a picture of mode I;16 was given"):
        predictor([Image.new("I;16", (20, 20), 30000)])
    for wrong in (torch.zeros(3, 48, 48), np.zeros((48, 48, 3), np.uint8), None, 3):
        with pytest.raises(ValueError, match=rf"is a {type(wrong).__name__}; allowed: a path, the bytes") as refused:
            list(predictor.stream([wrong], bad_image="skip"))
        assert not isinstance(refused.value, BadImageError), "nothing to skip: the caller is wrong, not the file"
    with pytest.raises(ValueError, match="images is a single str; pass a list"):
        predictor(str(next((pictures / "deep").iterdir())))


def test_bad_images_stop_or_are_listed_in_place(checkpoint_file, pictures):
    bad = pictures / "a torn.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 torn")
    config = {"checkpoint": str(checkpoint_file), "images": (str(pictures),)}
    with pytest.raises(BadImageError, match=r"a torn\.jpg"):
        predict_files(PredictConfig(**config))
    predictions = predict_files(PredictConfig(**config, bad_image="skip"))
    assert len(predictions) == 6
    assert [prediction.image for prediction in predictions if prediction.error] == [str(bad)]
    with pytest.raises(ValueError, match=r"no prediction for .*a torn\.jpg"):
        _ = predictions[0].best


def test_formats_hold_the_same(checkpoint_file, pictures):
    import csv
    import io

    (pictures / "torn.jpg").write_bytes(b"")
    config = PredictConfig(checkpoint=str(checkpoint_file), images=(str(pictures),), bad_image="skip", top_k=2)
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
        ({"batch_size": 0}, "--batch-size is 0; allowed: 1 or more"),
        ({"device": "tpu"}, "--device is 'tpu'"),
        ({"images": ("nowhere.jpg",)}, "nowhere.jpg does not exist"),
    ],
)
def test_wrong_options_are_one_sentence(checkpoint_file, pictures, changes, message):
    with pytest.raises(ValueError, match=message):
        options = {"checkpoint": str(checkpoint_file), "images": (str(pictures),), **changes}
        predict_files(PredictConfig(**options))


def test_class_names_must_fit_the_model():
    with pytest.raises(ValueError, match="2 class names given for a model of 3 classes"):
        model = rexnet.create_model("rexnet", width=0.3, num_classes=3)
        Predictor(model, classes=("a", "b"), preprocess=Preprocess())


def test_nothing_readable_is_listed_and_an_error(checkpoint_file, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO, "rexnet")  # which puts back at the end what the command sets
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").symlink_to("nowhere")
    output = tmp_path / "out.json"
    for words, shown in (([], 2), (["--output", str(output)], 0)):
        with pytest.raises(SystemExit) as stop:
            cli.main(["predict", str(checkpoint_file), str(tmp_path), "--bad-image", "skip", *words])
        said = capsys.readouterr()
        assert stop.value.code == 1 and "none of 2 files can be read; the first: " in said.err
        assert said.out.count("left out: ") == shown
    assert [sorted(item) for item in json.loads(output.read_text())] == [["error", "image", "predictions"]] * 2


def test_a_network_whose_output_is_not_finite_names_no_class(pictures):
    model = rexnet.create_model("rexnet", width=0.3, num_classes=3)
    torch.nn.init.constant_(model.get_classifier().bias, float("nan"))
    predictor = Predictor(model, classes=CLASSES, preprocess=Preprocess(image_size_px=48))
    with pytest.raises(ValueError, match="not finite"):
        predictor(sorted((pictures / "deep").iterdir()))
