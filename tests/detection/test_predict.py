import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rexnet import cli
from rexnet.detection import runtime
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.detection.config import DetectPredictConfig
from rexnet.detection.detectors import DetectorConfig
from rexnet.detection.plot import class_colour
from rexnet.detection.predict import predict_files
from rexnet.errors import BadImageError
from rexnet.models.variants import model_config

CLASSES, CATEGORY_IDS = ("cat", "dog", "fox"), (90, 0, 17)


class OneOfEach(nn.Module):
    """Each class once, the surest first; nothing where an image is black."""

    def __init__(self):
        super().__init__()
        self.config = DetectorConfig(
            kind="faster_rcnn", backbone=model_config("rexnet_010"), num_classes=3, min_size_px=64, max_size_px=96
        )

    def forward(self, images):
        boxes = torch.tensor([[2.0, 3.0, 12.0, 23.0], [10.0, 4.0, 30.0, 14.0], [1.0, 1.0, 9.0, 5.0]])
        found = {"boxes": boxes, "labels": torch.tensor([3, 1, 2]), "scores": torch.tensor([0.9, 0.75, 0.125])}
        return [{key: values[: 3 * bool(image.any())] for key, values in found.items()} for image in images]


@pytest.fixture
def predict(monkeypatch, tmp_path):
    """predict(*files, **options) -> what was found, the rows of the result file, the folder."""
    checkpoint = tmp_path / "model" / "best.pt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    monkeypatch.setattr(runtime, "_opened", lambda *_, **__: TrainedDetector(OneOfEach(), CLASSES, CATEGORY_IDS))

    def run(*files, **options):
        out = tmp_path / "out"
        names = tuple(map(str, files))
        found = predict_files(
            DetectPredictConfig(checkpoint=str(checkpoint), images=names, out=str(out), device="cpu", **options)
        )
        return found, json.loads((out / "detections.json").read_text()), out

    return run


def gray(path, size=(40, 30), **options):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, (90, 90, 90)).save(path, **options)
    return path


def test_category_ids_are_those_of_the_annotation_file(predict, tmp_path):
    found, rows, _ = predict(gray(tmp_path / "000139.jpg"), gray(tmp_path / "7.jpg"))
    assert [item.counts for item in found] == [{"fox": 1, "cat": 1}] * 2, "the dog is too unsure to count"
    assert [row["image_id"] for row in rows] == [139] * 3 + [7] * 3
    assert [row["category_id"] for row in rows] == [17, 90, 0] * 2
    assert rows[0]["bbox"] == [2, 3, 10, 20] and rows[0]["score"] == pytest.approx(0.9)
    assert rows[3]["file_name"] == str(tmp_path / "7.jpg")


def test_images_are_detected_upright(predict, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    _, _, out = predict(gray(tmp_path / "turned.png", size=(40, 30), exif=exif))
    with Image.open(out / "turned.jpg") as drawn:
        pixels = np.asarray(drawn).astype(int)
    # Enlarged twelve times to 480 pixels: the left edge of the fox's box, x = 2 and y = 3 to 23.
    assert pixels.shape == (480, 360, 3)
    assert np.abs(pixels[60:260, 24] - class_colour(3)).max(axis=1).mean() < 60


def test_no_detections_names_without_numbers_and_equal_file_names(predict, tmp_path):
    black = tmp_path / "black.png"
    Image.new("RGB", (40, 30)).save(black)
    found, rows, out = predict(black, gray(tmp_path / "a" / "x.png"), gray(tmp_path / "b" / "x.jpg"))
    assert found[0].counts == {} and [row["image_id"] for row in rows] == [2] * 3 + [3] * 3
    assert {path.name for path in out.glob("*.jpg")} == {"black.jpg", "x.jpg", "x-2.jpg"}


def test_bad_files_stop_the_command_or_are_skipped(predict, tmp_path):
    bad, good = tmp_path / "bad.jpg", gray(tmp_path / "good.jpg")
    bad.write_bytes(b"text")
    with pytest.raises(BadImageError, match=r"bad\.jpg"):
        predict(bad, good)
    found, rows, _ = predict(bad, good, bad_image="skip", batch_size=2)
    assert "bad.jpg" in found[0].error and found[1].counts and {row["image_id"] for row in rows} == {2}
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    found, _, _ = predict(tmp_path / "loop.jpg", good, bad_image="skip")
    assert "loop.jpg" in found[0].error and found[1].counts
    with pytest.raises(ValueError, match="none of 1 files can be read"):
        predict(bad, bad_image="skip")


def test_a_link_to_itself_is_a_bad_image(predict, tmp_path):
    good, loop = gray(tmp_path / "in" / "2.jpg"), tmp_path / "in" / "1.jpg"
    loop.symlink_to(loop)
    for given in ((loop, good), (tmp_path / "in",)):
        found, rows, _ = predict(*given, bad_image="skip")
        assert [(item.image, bool(item.error)) for item in found] == [(str(loop), True), (str(good), False)]
        assert {row["image_id"] for row in rows} == {2}


def test_the_command_refuses_impossible_options(capsys, tmp_path):
    image = gray(tmp_path / "x.png")
    (tmp_path / "best.pt").touch()
    words = ["detect", "predict", str(tmp_path / "best.pt"), str(image), "--out"]
    for bad, sentence in (
        ([*words, str(tmp_path)], "is a folder that images are read from"),
        ([*words, str(image)], ", a file; allowed"),
        ([*words, "y", "--min-score", "2"], "--min-score is 2.0; allowed: from 0 to 1"),
        ([*words, "y", "--font", str(image)], "x.png; allowed: a .ttf, .otf or .ttc file"),
        ([*words, str(tmp_path / "y")], "best.pt"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(bad)
        said = capsys.readouterr().err
        assert stop.value.code in (1, 2) and sentence in said and "Traceback" not in said
    assert not (tmp_path / "y").exists()


@pytest.mark.slow
def test_a_trained_detector_plots_and_writes_masks(trained, shapes, tmp_path, capsys):
    out = tmp_path / "drawn"
    cli.main(
        ["detect", "predict", str(trained / "best.pt"), str(shapes / "val"), "--out", str(out), "--min-score", "0"]
    )
    names = sorted(path.stem for path in (shapes / "val").iterdir())
    assert sorted(path.stem for path in out.glob("*.jpg")) == names
    rows = json.loads((out / "detections.json").read_text())
    assert rows and {row["image_id"] for row in rows} <= set(map(int, names))
    assert {row["category_id"] for row in rows} <= {3, 7, 8, 21} and all(row["segmentation"] for row in rows)
    assert capsys.readouterr().out.count(".png: ") == len(names)
