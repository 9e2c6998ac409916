import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from rexnet.cli import main
from rexnet.data.checks.images import CheckConfig, check
from tests.boxed_files import voc_image, voc_lists, voc_object, write_image
from tests.coco_files import annotation, image_entry, many_images, write_side
from tests.data.boxes.test_coco import GOLDEN, POISON, POISONED_IMAGES


def run(data, **options):
    return check(CheckConfig(data=str(data), **{"workers": 0, **options}))


@pytest.fixture
def clean(tmp_path):
    many_images(tmp_path, 12)
    many_images(tmp_path, 4, side="val")
    return tmp_path


@pytest.fixture
def command():
    """`main`, whose verbosity other tests do not get to see."""
    logger = logging.getLogger("rexnet")
    level = logger.level
    yield main
    logger.setLevel(level)


def filled(report) -> set[str]:
    return {problem for problem, found in report.problems().items() if found}


def test_tiny_coco_is_clean(tiny_coco):
    report = run(tiny_coco)
    assert report.clean and report.images == 100
    assert sum(report.classes["train"].values()) == 465 and sum(report.classes["val"].values()) == 377
    assert report.crowds == {"train": 5, "val": 5}
    assert len(report.classes["train"]) == 80 and report.classes["train"]["person"] == 96
    assert 0 in report.classes["train"].values(), "a category without a box is no problem"
    assert [len(names) for names in report.without_boxes.values()] == [1, 2]


def test_sizes_are_those_of_coco(tmp_path):
    boxes = [annotation(n, box=(n, 1, 99, 99), area=area) for n, area in enumerate((1023.9, 1024, 9215.9, 9216), 1)]
    write_side(tmp_path, "train", [image_entry(1, 200, 150)], boxes)
    report = run(tmp_path)
    assert report.box_sizes["train"]["cat"] == {"small": 1, "medium": 2, "large": 1}
    assert report.notes == ["train: 1 small, 2 medium, 1 large boxes, 0 of crowds, 0 images without boxes"]


@pytest.mark.parametrize("workers", [0, 2])
def test_clean_and_workers(clean, workers):
    report = run(clean, workers=workers)
    assert report.clean and report == run(clean)
    assert report.balance["train"] == {"smallest": 18, "largest": 18, "ratio": 1.0}
    assert [len(names) for names in report.without_boxes.values()] == [3, 1]


def test_every_dirty_annotation_is_listed(tmp_path):
    write_side(tmp_path, "train", POISONED_IMAGES, [row for row, _ in POISON])
    report = run(tmp_path)
    assert not report.clean
    assert {kind: len(cases) for kind, cases in report.annotations.items()} == GOLDEN
    assert report.annotations["outside"][0] == {
        "split": "train",
        "image": "105.png",
        "annotation": "5",
        "reason": "its box [40, 3, 5, 5] lies outside the 40 x 30 px",
    }
    lines = report.problems()["zero area (skipped with its image)"]
    assert lines[0] == "train: 102.png, annotation 2: its box is [0, 0, 0, 5], width 0 and height 5"
    assert json.loads(report.to_json())["clean"] is False


def test_images(clean):
    train, val = clean / "train", clean / "val"
    (train / "2.png").write_bytes(b"")
    Image.new("RGB", (33, 44)).save(train / "4.png")
    with Image.open(train / "5.png") as image:
        image.convert("RGB").save(train / "5.png", "JPEG")
    shutil.copy(train / "6.png", train / "9.png")
    shutil.copy(train / "7.png", val / "1.png")
    report = run(clean)
    assert [row["image"] for row in report.unreadable] == [str(train / "2.png")]
    assert report.wrong_size == [{"image": str(train / "4.png"), "width_px": 33, "height_px": 44, "stated": "24 x 36"}]
    assert report.wrong_extension == [{"image": str(train / "5.png"), "content": "JPEG"}]
    assert report.duplicates_within_split == [[str(train / "6.png"), str(train / "9.png")]]
    assert report.duplicates_across_splits == [[str(train / "7.png"), str(val / "1.png")]]
    assert len(filled(report)) == 5


def test_rotated_images_fit_in_both_orientations(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "train").mkdir()
    for number in (1, 2, 3):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train" / f"{number}.png", exif=exif)
    write_side(tmp_path, "train", [image_entry(1, 40, 30), image_entry(2, 30, 40), image_entry(3, 30, 30)], [])
    assert [row["image"][-5:] for row in run(tmp_path).wrong_size] == ["3.png"]


def test_categories_of_one_split(tmp_path):
    write_side(tmp_path, "train", [image_entry(1)], [], [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    write_side(tmp_path, "val", [image_entry(1)], [], [{"id": 1, "name": "a"}, {"id": 2, "name": "c"}])
    assert run(tmp_path).different_categories == ["train/b", "val/c"]


def test_command(command, clean, tmp_path, capsys):
    command(["data", "check", str(clean), "--workers", "0"])
    said = capsys.readouterr().out
    assert "boxes" in said and "16 images" in said and "train: 18 small" in said
    write_side(clean, "val", [image_entry(1), image_entry(2)], [annotation(9, box=(0, 0, 0, 0))])
    with pytest.raises(SystemExit) as stop:
        command(["data", "check", str(clean), "--workers", "0", "--output", str(tmp_path / "report.json")])
    assert stop.value.code == 1 and "1.png, annotation 9: its box is [0, 0, 0, 0]" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["annotations"]["zero area"][0]["annotation"] == "9"


def test_an_invalid_annotation_file(command, clean, capsys):
    (clean / "annotations" / "instances_val.json").write_text("{")
    with pytest.raises(SystemExit) as stop:
        command(["data", "check", str(clean)])
    assert stop.value.code == 1 and "instances_val.json is not a JSON file" in capsys.readouterr().err


class TestOtherLayouts:
    """`data check` sees what `detect convert` would skip."""

    def test_yolo(self, tmp_path, command, capsys):
        (tmp_path / "labels").mkdir()
        for number, text in enumerate(("0 0.5 0.5 1 1\n1 0.5 0.5 0.5 0.5\n", "7 0.5 0.5 1 1\n", "", "0 0.5 0.5 1 1\n")):
            write_image(tmp_path / "images" / f"{'n' * (number + 1)}.png")
            (tmp_path / "labels" / f"{'n' * (number + 1)}.txt").write_text(text)
        (tmp_path / "labels" / "gone.txt").write_text("0 0.5 0.5 1 1\n0 0.5 0.5 1 0.5\n")
        (tmp_path / "data.yaml").write_text("names: [cat, Cat]\n")
        report = run(tmp_path)
        assert report.images == 3 and report.classes == {"": {"cat": 2, "Cat": 1}}
        assert [(row["file"][-8:], row["objects"]) for row in report.skipped] == [("s/nn.png", 1), ("gone.txt", 2)]
        assert report.near_equal_classes == [["Cat", "cat"]] and report.without_boxes[""] == [
            str(tmp_path / "images" / "nnn.png")
        ]
        with pytest.raises(SystemExit) as stop:
            command(["data", "check", str(tmp_path), "--workers", "0"])
        assert stop.value.code == 1 and "its class is 7" in capsys.readouterr().out

    def test_voc_with_a_test_split(self, tmp_path):
        for number, name in enumerate(("a", "bb", "ccc"), start=1):
            voc_image(tmp_path, name, voc_object("dog", (1, 1, 10 * number, 12)), voc_object("dog", (1, 1, 40, 30), 1))
        voc_lists(tmp_path, train="a", val="bb", test="ccc")
        report = run(tmp_path)
        assert report.clean and report.crowds == {"train": 1, "val": 1, "test": 1}
        assert report.classes == {split: {"dog": 1} for split in ("train", "val", "test")}

    def test_crowds_alone_are_refused(self, tmp_path):
        voc_image(tmp_path, "a", voc_object(difficult=1))
        assert "no object" in run(tmp_path).refused[0]

    def test_class_folders_with_a_list_of_names_are_not_boxes(self, tmp_path):
        for name in ("cat", "dog"):
            for number in range(2):
                write_image(tmp_path / name / f"{name * (number + 1)}.png")
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
        assert run(tmp_path).counted == "images"
