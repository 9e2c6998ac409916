import json
import os
import unicodedata
from pathlib import Path

import pytest

from rexnet.data.datasets import hub_name, open_dataset, open_images
from tests.drawings import draw
from tests.tars import names_of


def make(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw("cat", number).save(path)
    return root


@pytest.fixture
def coco(tmp_path) -> Path:
    root = make(tmp_path / "coco", "train2017/1.png", "train2017/2.png", "val2017/3.png")
    (root / "annotations").mkdir()
    for split, numbers in (("train", (1, 2)), ("val", (3,))):
        width, height = draw("cat", 1).size
        images = [{"id": n, "file_name": f"{n}.png", "width": width, "height": height} for n in numbers]
        boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9]} for n in numbers]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def test_kinds(image_folder, coco, tmp_path):
    assert open_dataset(image_folder).kind == "folder"
    assert open_dataset("digits").kind == "named" and open_dataset("torchvision/cifar10").kind == "named"
    assert open_dataset("hfds/any/name").kind == "hugging_face"
    assert open_dataset("https://host/folder").kind == "tars"
    assert open_dataset(str(coco)).kind == "boxes"


def test_a_known_name_wins_over_a_path(image_folder, monkeypatch):
    image_folder.rename(image_folder.parent / "digits")
    monkeypatch.chdir(image_folder.parent)
    assert open_dataset("digits").kind == "named"
    assert open_dataset("./digits").kind == open_dataset(Path("digits")).kind == "folder"


def test_boxes_need_a_detector_and_plain_images_a_classifier(coco, image_folder):
    for ask in (lambda d: d.for_training(), lambda d: d.for_measuring(["cat"])):
        with pytest.raises(ValueError, match=r"coco is a folder in COCO's layout; rexnet detect train"):
            ask(open_dataset(coco))
    assert open_dataset(coco).for_detection().classes == ("cat",)
    assert len(open_dataset(coco).boxes_to_measure("val", ["cat"])) == 1
    for data in (image_folder, "digits"):
        with pytest.raises(ValueError, match=r"without annotations in COCO's layout, .*; rexnet detect convert"):
            open_dataset(data).for_detection()
        with pytest.raises(ValueError, match=r"--split is val, but .* has no annotation file"):
            open_dataset(data).boxes_to_measure("val", ["cat"])
    assert len(open_images(coco)) == 3, "where labels do not matter, any images do"


def test_class_folders_with_an_annotation_file_beside_them_stay_class_folders(image_folder):
    (image_folder / "train.json").write_text("{}")
    assert len(open_dataset(image_folder).for_training().train) == 36


def test_unknown_strings_list_what_is_allowed(tmp_path):
    (tmp_path / "a.png").touch()
    for data, state in (("digit", "not a dataset name"), (tmp_path / "a.png", "is a file")):
        with pytest.raises(ValueError, match=f"{state}.*allowed: a folder.*digits, torchvision/cifar10.*hfds/NAME"):
            open_dataset(data)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("photos.zip", "python -m zipfile -e 'my photos.zip' 'my photos'"),
        ("photos.tar.gz", "python -m tarfile -e 'my photos.tar.gz' 'my photos'"),
        ("photos.TGZ", "python -m tarfile -e 'my photos.TGZ' 'my photos'"),
    ],
)
def test_an_archive_gets_the_command_that_unpacks_it(tmp_path, monkeypatch, name, command):
    monkeypatch.chdir(tmp_path)
    Path(f"my {name}").touch()
    with pytest.raises(ValueError, match="is an archive; unpack it first") as refused:
        open_dataset(f"my {name}")
    assert str(refused.value).endswith(command)


@pytest.mark.parametrize("name", ["annotations/instances_default.json", "result.json"])
def test_one_annotation_file_of_an_annotation_tool_gets_the_next_step(tmp_path, name):
    root = make(tmp_path / "export", "images/1.png", "images/2.png")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match=rf"{name}, a COCO file without a split.*instances_train\.json"):
        open_dataset(root)


def test_names_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    assert hub_name("hfds/owner/name") == "owner/name"
    assert hub_name("hfds/local") is None and hub_name("digits") is None


class TestUnicode:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))

    def test_classes_are_matched_in_unicode_normal_form(self, tmp_path):
        names = (f"train/{self.composed}/{n}.png" for n in range(2))
        make(tmp_path, *names, f"val/{self.decomposed}/1.png", "train/thé/1.png", "val/thé/1.png")
        sets = open_dataset(tmp_path).for_training()
        assert sets.classes == (self.composed, "thé")
        for index, name in enumerate(names_of(sets.val)):
            assert unicodedata.normalize("NFC", Path(name).parent.name) == sets.classes[sets.val.targets[index]]
        measured = open_dataset(tmp_path).for_measuring(["thé", self.decomposed])
        assert measured.targets.tolist() == [1, 0] and measured.classes == ("thé", self.decomposed)

    def test_two_folders_of_one_class(self, tmp_path):
        make(tmp_path, f"{self.composed}/1.png", f"{self.decomposed}/2.png", "b/1.png")
        if len(os.listdir(tmp_path)) == 3:  # where the file system keeps both
            with pytest.raises(ValueError, match=r"two folders café, .* merge them"):
                open_dataset(tmp_path).for_training()


def test_hidden_folders_are_not_classes(image_folder):
    make(image_folder / "train", "__MACOSX/cat/._0.png", ".git/0.png", "cat/._1.png", "cat/__MACOSX/1.png")
    sets = open_dataset(image_folder).for_training()
    assert sets.classes == ("cat", "dog", "fox") and len(sets.train) == 36


@pytest.mark.parametrize("layout", ["VOC", "YOLO"])
def test_boxes_in_other_layouts_get_the_convert_command(tmp_path, layout):
    if layout == "VOC":
        make(tmp_path, "JPEGImages/1.png", "JPEGImages/2.png")
        (tmp_path / "Annotations").mkdir()
    else:
        make(tmp_path, *(f"{split}/images/{number}.png" for split in ("train", "valid") for number in range(2)))
        (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [a]\n")
    dataset = open_dataset(tmp_path)
    with pytest.raises(ValueError, match=f"{layout}'s layout; rexnet detect train .* detect convert"):
        dataset.for_training()
    with pytest.raises(ValueError, match=f"{layout}'s layout.*; rexnet detect convert"):
        dataset.for_detection()


def test_class_folders_with_another_yaml_file_stay_class_folders(image_folder):
    (image_folder / "dataset.yaml").write_text("license: CC0\n")
    assert open_dataset(image_folder).kind == "folder"


def test_the_folder_of_a_run_is_not_data(tmp_path):
    make(tmp_path, "samples/1.png", "curves.png")
    (tmp_path / "config.json").write_text('{"network": {}}')
    with pytest.raises(ValueError, match="is a run folder, not a dataset"):
        open_dataset(tmp_path)
