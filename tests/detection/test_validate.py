import json

import pytest
import torch
from PIL import Image
from torch import nn

from rexnet import cli
from rexnet.data.boxes.coco import load_coco_images
from rexnet.detection import validate as validation
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.detection.config import DetectValidateConfig
from rexnet.detection.validate import validate
from tests.coco_files import annotation, image_entry, write_side

CLASSES = ("fox", "cat", "dog")
"""In another order than in the file, whose ids are 2, 5 and 90; the checkpoint's are others still."""


class Knows(nn.Module):
    """Finds what the annotation file says; images are told apart by their pixels."""

    def __init__(self, file, *, moved_by: int = 0):
        super().__init__()
        images = load_coco_images(file)
        self.found = {}
        for index in range(len(images)):
            target = images.target(index)
            names = [images.classes[label - 1] for label in target["labels"]]
            labels = [(CLASSES.index(name) + moved_by) % len(CLASSES) + 1 for name in names]
            self.found[sum(images.load(index).resize((1, 1)).getpixel((0, 0)))] = {
                "boxes": torch.from_numpy(target["boxes"]),
                "labels": torch.tensor(labels, dtype=torch.int64),
                "scores": torch.full((len(labels),), 0.01),
            }

    def forward(self, images):
        return [self.found[round(float(image.mean(dim=(1, 2)).sum()) * 255)] for image in images]


@pytest.fixture
def data(tmp_path):
    entries = [image_entry(n) for n in (4, 7, 11)]
    (tmp_path / "val").mkdir()
    for entry in entries:
        Image.new("RGB", (40, 30), (10 * entry["id"], 0, 0)).save(tmp_path / "val" / entry["file_name"])
    rows = [
        annotation(1, 4, 5, (1, 2, 9, 9)),
        annotation(2, 4, 90, (20, 5, 9, 9)),
        annotation(3, 11, 2, (0, 0, 30, 20)),
    ]
    return write_side(tmp_path, "val", entries, rows)


def measured(monkeypatch, data, moved_by: int = 0, **options):
    detector = TrainedDetector(Knows(data, moved_by=moved_by), CLASSES, (1, 2, 3))
    monkeypatch.setattr(validation, "load_detector", lambda _: detector)
    root = str(data.parent.parent)
    return validate(DetectValidateConfig(checkpoint="best.pt", data=root, device="cpu", workers=0, **options))


def test_classes_are_matched_by_name_for_any_ids(monkeypatch, data, tmp_path):
    result, curves = tmp_path / "result.json", tmp_path / "curves.png"
    found = measured(monkeypatch, data, output=str(result), curves=str(curves))
    assert found["figures"]["box_ap"] == pytest.approx(100) and found["figures"]["images"] == 3
    assert {name: row["objects"] for name, row in found["by_class"].items()} == {"cat": 1, "dog": 1, "fox": 1}
    assert json.loads(result.read_text()) == json.loads(json.dumps(found))
    with Image.open(curves) as drawn:
        assert min(drawn.size) > 300


def test_an_image_with_an_unusable_object_is_named_and_not_scored(monkeypatch, data):
    content = json.loads(data.read_text())
    content["annotations"][2]["bbox"][2] = 0
    data.write_text(json.dumps(content))
    found = measured(monkeypatch, data, bad_image="skip")
    assert found["skipped"] == [str(data.parents[1] / "val" / "11.png")] and found["figures"]["images"] == 2
    with pytest.raises(ValueError, match=r"1 of 3 images .* --bad-image skip"):
        measured(monkeypatch, data)


@pytest.mark.parametrize("moved_by", [1, 2])
def test_classes_off_by_one_are_worthless(monkeypatch, data, moved_by):
    assert measured(monkeypatch, data, moved_by)["figures"]["box_ap"] == 0


def test_unmeasurable_networks_are_refused_in_one_sentence(monkeypatch, data, tmp_path):
    with pytest.raises(ValueError, match=r"--split is train, but .* has val"):
        measured(monkeypatch, data, split="train")
    with pytest.raises(ValueError, match="--batch-size is 0; allowed: 1 or more"):
        measured(monkeypatch, data, batch_size=0)
    monkeypatch.setattr(validation, "load_detector", lambda _: TrainedDetector(nn.Identity(), ("cat",), (1,)))
    with pytest.raises(ValueError, match=r"categories of .* differ: only here dog, fox"):
        validate(DetectValidateConfig(checkpoint="best.pt", data=str(tmp_path), device="cpu"))


@pytest.mark.slow
def test_the_command_shows_every_class_and_figure(trained, shapes, tmp_path, capsys):
    found = tmp_path / "found.json"
    cli.main(["detect", "validate", str(trained / "best.pt"), str(shapes), "--output", str(found)])
    said, written = capsys.readouterr().out, json.loads(found.read_text())
    assert "2 images  box AP" in said and "mask AP50 %" in said and written["figures"]["images"] == 2
    shown = {name for name, row in written["by_class"].items() if row["objects"]} | {"ap75", "ar100"}
    assert all(f" {name} " in said for name in shown)
