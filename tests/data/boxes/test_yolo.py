import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rexnet.data.boxes.coco import load_coco_sets
from rexnet.data.boxes.yolo import read_yolo
from rexnet.data.datasets import open_dataset
from tests.boxed_files import convert, files_of, write_image


class TestYolo:
    @pytest.fixture
    def source(self, tmp_path):
        root = tmp_path / "yolo"
        for side, names in (("train", ("a", "deep/b", "empty")), ("val", ("c",))):
            for name in names:
                write_image(root / "images" / side / f"{name}.png")
        labels = {
            "train/a": "0 0.5 0.5 1 1\n1 0.25 0.5 0.1 0.2\n",
            "train/deep/b": "2 0.1 0.2 0.5 0.2 0.5 0.8\n",
            "val/c": "1 0.5 0.5 0.25 0.5",
        }
        for name, text in labels.items():
            file = root / "labels" / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        names = "path: ../datasets/yolo\ntrain: ../images/train\nval: images/val\nnames:\n  0: dog\n  1: cat\n  2: 7\n"
        (root / "data.yaml").write_text(names)
        return root

    def test_by_hand(self, source, tmp_path):
        before = files_of(source)
        found = convert(source, tmp_path / "out")
        assert found.images == {"train": 3, "val": 1} and found.boxes == {"train": 3, "val": 1}
        assert found.classes == ("dog", "cat", "7") and not found.skipped
        sets = load_coco_sets(tmp_path / "out")
        names = [Path(sets.train.name(index)).stem for index in range(3)]
        first, second = (sets.train.target(names.index(name)) for name in ("a", "b"))
        np.testing.assert_allclose(first["boxes"], [[0, 0, 40, 30], [8, 12, 12, 18]], atol=1e-5)
        assert first["labels"].tolist() == [1, 2]
        np.testing.assert_allclose(second["boxes"], [[4, 6, 20, 24]], atol=1e-5)
        np.testing.assert_allclose(second["segments"][0], [[4, 6, 20, 6, 20, 24]], atol=1e-9)
        np.testing.assert_allclose(second["area"], [16 * 18 / 2])
        assert len(sets.train.target(names.index("empty"))["boxes"]) == 0
        assert sets.train.load(names.index("b")).size == (40, 30)
        assert files_of(source) == before

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("0 0.5 0.5 1", "4 numbers"),
            ("0 0.5 0.5 0.1 0.1 0.9", "6 numbers"),
            ("0 0.1 0.1 0.5 0.5 0.1 0.1 0.9", "8 numbers"),
            ("3 0.5 0.5 0.1 0.1", "class is 3"),
            ("-1 0.5 0.5 0.1 0.1", "class is -1"),
            ("0.5 0.5 0.5 0.1 0.1", "class is 0.5"),
            ("dog 0.5 0.5 0.1 0.1", "not a number"),
            ("0 nan 0.5 0.1 0.1", "not finite"),
            ("0 20 15 10 10", "outside 0 to 1"),
            ("0 0.5 0.5 0 0.1", "no area"),
            ("0 0.1 0.1 0.1 0.5 0.1 0.9", "no area"),
            ("0,0.5,0.5,0.1,0.1", "not a number, or separators other"),
        ],
    )
    def test_an_image_with_an_unreadable_line_is_skipped(self, source, tmp_path, line, said):
        (source / "labels" / "train" / "a.txt").write_text(f"0 0.5 0.5 1 1\n\n{line}\n1 0.25 0.5 0.1 0.2\n")
        found = convert(source, tmp_path / "out")
        assert found.images["train"] == 2 and found.boxes["train"] == 1
        (skipped,) = found.skipped
        assert skipped.file.endswith("images/train/a.png") and skipped.objects == 3
        assert "a.txt, line 3: " in skipped.reason and said in skipped.reason
        rows = list(csv.reader((tmp_path / "out" / "skipped.csv").read_text(encoding="utf-8").splitlines()))
        assert rows == [["file", "objects", "reason"], [skipped.file, "3", skipped.reason]]

    def test_upright_size_and_a_bad_image(self, source, tmp_path):
        exif = Image.Exif()
        exif[274] = 6
        write_image(source / "images" / "train" / "a.png", exif=exif)
        (source / "images" / "train" / "empty.png").write_bytes(b"")
        found = convert(source, tmp_path / "out")
        assert found.images["train"] == 2 and "empty.png: the file is empty" in str(found.skipped[0])
        sets = load_coco_sets(tmp_path / "out")
        assert sets.train.size_px(0) == (40, 30) and sets.train.load(0).size == (30, 40)
        np.testing.assert_allclose(sets.train.target(0)["boxes"][1], [6, 16, 9, 24], atol=1e-5)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("names: !!python/object/apply:os.system ['touch SENTINEL']", "not plain YAML"),
            ("names: [a, b", "not plain YAML"),
            ("- a", "contains a list"),
            ("train: images/train", "has no class names"),
            ("names: [a, a, b]", "two classes named 'a'"),
            ("names: {0: a, 2: b}", "numbered from 0"),
            ("names: [a, b, c]\ntrain: [x, y]", "train: x, which does not exist"),
            ("names: [a, b, c]\ntrain: outside", "a link that leads out"),
            ("names: [a, b, c]\nnc: 4", "has nc: '4', but 3 names: a, b, c"),
            ("names: [a, b, c]\nkpt_shape: [8]", "kpt_shape is "),
            ("names: [a, b, c]\ntask: classify", "task 'classify'; allowed: detect"),
            ("names: [a, b, c]\nsingle_cls: true", "has single_cls, which changes"),
            ("names: [a, b, c]\ntrain: images/train\ntrain: images/val", "the key 'train' twice"),
            ("names: [a, b, c]\nval: images/val\nvalid: images/val", "has val and valid; keep one"),
            ("names: [a, b, c]\npath: ..", "another folder"),
            ("names: [a, b, c]\nval: val.txt", "val: val.txt, which does not exist"),
            ("names: [caf\u00e9, cafe\u0301]", "two classes named 'caf\u00e9'"),
            ("a: &a [x]\nb: &b [*a,*a]\nnames: [*b, *b]", "no list of class names"),
        ],
    )
    def test_descriptions(self, source, tmp_path, text, said, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (source / "outside").symlink_to(tmp_path)
        (source / "data.yaml").write_text(text)
        with pytest.raises(ValueError, match=said):
            convert(source, tmp_path / "out")
        assert not (tmp_path / "SENTINEL").exists() and not (tmp_path / "out").exists()

    @pytest.mark.parametrize("names", ["train/images", "flat"])
    def test_other_layouts(self, source, tmp_path, names):
        root = tmp_path / "other"
        for place in ("train", "valid") if names != "flat" else ("",):
            write_image(root / place / "images" / "x.png")
            write_image(root / place / "images" / "y.png")
            (root / place / "labels").mkdir()
            (root / place / "labels" / "x.txt").write_text("0 0.5 0.5 1 1")
        (root / "classes.txt").write_text("dog\ncat\n")
        found = convert(root, tmp_path / "out")
        assert sum(found.images.values()) == (4 if names != "flat" else 2)
        assert sum(found.boxes.values()) == (2 if names != "flat" else 1) and found.classes == ("dog", "cat")


@pytest.fixture
def flat(tmp_path):
    """Ten labelled images in images/, without a split."""
    root = tmp_path / "flat"
    (root / "labels").mkdir(parents=True)
    for number in range(10):
        write_image(root / "images" / f"{number}.png")
        (root / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return root


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.rglob("*.png"))


class TestDescription:
    """What a description names is used or refused, never replaced."""

    @pytest.mark.parametrize(
        ("line", "root"),
        [
            ("images/{}.png", ""),
            ("./images/{}.png", ""),
            ("../images/{}.png", "lists"),
            ("/home/author/flat/images/{}.png", ""),
            ("C:\\data\\flat\\images\\{}.png", ""),
        ],
    )
    def test_lists_of_images(self, flat, tmp_path, line, root):
        (flat / root).mkdir(exist_ok=True)
        for name, numbers in (("train", range(6)), ("val", (6, 7)), ("test", (8,))):
            text = "".join(f"{line.format(number)}\n" for number in numbers)
            (flat / root / f"{name}.txt").write_text(f"\ufeff{text}", encoding="utf-8")
        at = f"{root}/" if root else ""
        (flat / "data.yaml").write_text(f"train: {at}train.txt\nval: {at}val.txt\ntest: {at}test.txt\nnames: [a]\n")
        found = convert(flat, tmp_path / "out")
        assert found.images == {"train": 6, "val": 2, "test": 1} and found.skipped == []
        assert found.boxes == {"train": 6, "val": 2, "test": 1}
        assert [stems(tmp_path / "out" / split) for split in ("val", "test")] == [["6", "7"], ["8"]]

    def test_a_list_names_missing_files(self, flat, tmp_path, caplog):
        (flat / "train.txt").write_text("images/0.png\nimages/1.png\nimages/77.png\n/a/images/1.png\n")
        (flat / "val.txt").write_text("images/2.png\n")
        (flat / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [a]\n")
        found = convert(flat, tmp_path / "out")
        assert found.images == {"train": 2, "val": 1}
        assert [skipped.file for skipped in found.skipped] == ["images/77.png"]
        assert "1 line repeats an image of train" in caplog.text

    def test_lists_of_folders_below_a_root(self, flat, tmp_path):
        data = tmp_path / "set"
        (data / "raw").mkdir(parents=True)
        for part, numbers in (("images/a", (0, 1)), ("images/b", (2,)), ("images/c", (3,))):
            (data / "raw" / part).mkdir(parents=True)
            for number in numbers:
                (flat / "images" / f"{number}.png").rename(data / "raw" / part / f"{number}.png")
        (data / "raw" / "more.txt").write_text("./images/c/3.png\n")
        text = "path: raw\ntrain: [images/a, more.txt]\nval:\n  - images/b\nnames: [a]\n"
        (data / "data.yaml").write_text(text)
        found = convert(data, tmp_path / "out")
        assert found.images == {"train": 3, "val": 1} and not found.skipped
        assert stems(tmp_path / "out" / "train") == ["0", "1", "3"]

    def test_a_root_of_another_machine_is_the_folder(self, flat, tmp_path, caplog):
        (flat / "data.yaml").write_text("path: /content/datasets/x\ntrain: images\nval: images\nnames: [a]\n")
        assert convert(flat, tmp_path / "out").images == {"train": 10, "val": 10}
        assert "path: /content/datasets/x does not exist" in caplog.text
        assert "10 of 10 images of val are also in train" in caplog.text

    def test_train_alone(self, flat, tmp_path, caplog):
        (flat / "data.yaml").write_text("train: train.txt\nnames: [a]\n")
        (flat / "train.txt").write_text("".join(f"images/{number}.png\n" for number in range(5)))
        found = convert(flat, tmp_path / "out")
        assert found.images == {"train": 4, "val": 1} and stems(tmp_path / "out") == ["0", "1", "2", "3", "4"]
        assert "so one is drawn from the training images" in caplog.text
        assert "5 images with labels are in no split" in caplog.text

    @pytest.mark.parametrize("key", ["test: ../test/images\n", ""])
    def test_roboflow(self, flat, tmp_path, key):
        root = tmp_path / "roboflow"
        for split, numbers in (("train", range(6)), ("valid", (6, 7)), ("test", (8, 9))):
            for kind, ending in (("images", "png"), ("labels", "txt")):
                (root / split / kind).mkdir(parents=True)
                for number in numbers:
                    (flat / kind / f"{number}.{ending}").rename(root / split / kind / f"{number}.{ending}")
        text = f"train: ../train/images\nval: ../valid/images\n{key}nc: 1\nnames: ['a']\nroboflow:\n  version: 1\n"
        (root / "data.yaml").write_text(text)
        found = convert(root, tmp_path / "out")
        assert found.images == found.boxes == {"train": 6, "val": 2, "test": 2}
        assert stems(tmp_path / "out" / "test") == ["8", "9"]

    @pytest.mark.parametrize(
        "text", ["names: [ok, no, 0010]", "names: {0: ok, 1: no, 2: 0010}\nnc: 3", "names:\n- ok\n- no\n- 0010"]
    )
    def test_names_stay_as_written(self, flat, tmp_path, text):
        (flat / "data.yaml").write_text(f"\ufeff{text}\n", encoding="utf-8")
        assert convert(flat, tmp_path / "out").classes == ("ok", "no", "0010")

    @pytest.mark.parametrize("text", ["a\n\nb\n", "\ufeff\na\n"])
    def test_a_line_without_a_name_is_not_skipped(self, flat, tmp_path, text):
        (flat / "classes.txt").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"has no name for class [01]"):
            convert(flat, tmp_path / "out")
        (flat / "classes.txt").write_text("a\nb\n \n\n")
        assert convert(flat, tmp_path / "out").classes == ("a", "b")

    @pytest.mark.parametrize("files", [("data.yaml", "dataset.yaml"), ("classes.txt", "obj.names")])
    def test_two_descriptions_that_differ_are_refused(self, flat, tmp_path, files):
        for file in files:
            (flat / file).write_text("names: [a]\n" if "yaml" in file else "a\n")
        assert convert(flat, tmp_path / "out").boxes == {"train": 8, "val": 2}
        (flat / files[1]).write_text("names: [b]\n" if "yaml" in file else "b\n")
        with pytest.raises(ValueError, match=f"{files[0]} and .*{files[1]} differ"):
            convert(flat, tmp_path / "again")

    def test_keypoints_are_not_outlines(self, flat, tmp_path):
        (flat / "data.yaml").write_text("names: [a]\nkpt_shape: [8, 2]\n")
        keypoints = " ".join(["0.05 0.9"] * 8)
        for file in (flat / "labels").iterdir():
            file.write_text(f"0 0.7 0.2 0.2 0.1 {keypoints}\n")
        (flat / "labels" / "3.txt").write_text("0 0.7 0.2 0.2 0.1\n")
        found = convert(flat, tmp_path / "out")
        images = load_coco_sets(tmp_path / "out").train
        np.testing.assert_allclose(images.target(0)["boxes"], [[24, 4.5, 32, 7.5]], atol=1e-5)
        assert not images.has_masks and len(found.skipped) == 1 and "kpt_shape requires 21" in found.skipped[0].reason


class TestLabels:
    def test_byte_order_marks_and_normal_forms(self, flat, tmp_path):
        (flat / "classes.txt").write_text("\ufeffcafe\u0301\r\n", encoding="utf-8")
        (flat / "labels" / "0.txt").write_text("\ufeff0 0.5 0.5 1 1\n", encoding="utf-8")
        write_image(flat / "images" / "caf\u00e9.png")
        (flat / "labels" / "cafe\u0301.txt").write_text("0 0.5 0.5 1 1\n0 0.5 0.5 0.5 0.5\n")
        found = convert(flat, tmp_path / "out")
        assert found.classes == ("caf\u00e9",) and not found.skipped
        assert sum(found.images.values()) == 11 and sum(found.boxes.values()) == 12

    @pytest.mark.parametrize(
        ("content", "reason"),
        [("0 0.5 0.5 1 1\n".encode("utf-16"), "it is UTF-16"), (b"\xff\n", "it is not UTF-8 text")],
    )
    def test_other_encodings_are_named(self, flat, tmp_path, content, reason):
        (flat / "classes.txt").write_text("a\n")
        (flat / "labels" / "0.txt").write_bytes(content)
        found = convert(flat, tmp_path / "out")
        assert sum(found.images.values()) == 9
        assert found.skipped[0].reason.endswith(f"0.txt cannot be read: {reason}; save it as UTF-8")

    def test_labels_without_an_image_are_reported(self, flat, tmp_path):
        (flat / "classes.txt").write_text("a\n")
        (flat / "README.txt").write_text("ten images\n")
        (flat / "images" / "4.png").unlink()
        found = convert(flat, tmp_path / "out")
        assert [(Path(file).name, objects) for file, objects, _ in found.skipped] == [("4.txt", 1)]


@pytest.mark.parametrize(("label", "objects"), [("labels/a.txt", 1), ("labels/a.TXT", 1), ("label/a.txt", 0)])
def test_locations_of_labels(tmp_path, label, objects):
    """Labels that are not found must not make images without objects."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "a.png")
    (tmp_path / label).parent.mkdir()
    (tmp_path / label).write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text("names: [a]")
    found = read_yolo(tmp_path, workers=0)
    assert len(found.splits[None][0].boxes) == objects
    assert [row.objects for row in found.skipped] == [1] * (1 - objects)
    assert any("labels/a.txt" in note for note in found.notes) == (not objects)


@pytest.mark.parametrize("place", ["", "train"])
def test_labels_and_images_in_one_folder(tmp_path, place):
    """As LabelImg writes them, and Roboflow for Darknet."""
    (tmp_path / "classes.txt").write_text("dog\ncat")
    for name in "ab":
        write_image(tmp_path / place / f"{name}.png")
        (tmp_path / place / f"{name}.txt").write_text("1 .5 .5 .2 .4")
    found = read_yolo(tmp_path, workers=0)
    (images,) = found.splits.values()
    assert [(image.file_name, [box.name for box in image.boxes]) for image in images] == [
        ("a.png", ["cat"]),
        ("b.png", ["cat"]),
    ]
    assert list(found.splits) == [place or None] and not found.skipped


def test_the_layout_of_darknet_and_cvat(tmp_path):
    """Lists are used without a description too; their paths begin with data/, as this folder is called there."""
    lists = {"train": (0, 1, 2), "valid": (3,)}
    for number in range(4):
        write_image(tmp_path / "obj_train_data" / f"{number}.png")
        (tmp_path / "obj_train_data" / f"{number}.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "obj.names").write_text("a\nb\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    )
    for name, numbers in lists.items():
        (tmp_path / f"{name}.txt").write_text("".join(f"data/obj_train_data/{number}.png\n" for number in numbers))
    found = read_yolo(tmp_path, workers=0)
    assert {split: [Path(image.path).stem for image in images] for split, images in found.splits.items()} == {
        "train": ["0", "1", "2"],
        "val": ["3"],
    }
    assert all(image.boxes[0].name == "b" for images in found.splits.values() for image in images)
    assert not found.skipped and open_dataset(tmp_path).kind == "yolo"


def test_hidden_folders_hold_no_labels(flat):
    for folder in ("__MACOSX/labels", ".ipynb_checkpoints"):
        (flat / folder).mkdir(parents=True)
        (flat / folder / "x.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (flat / "classes.txt").write_text("a\n")
    assert not read_yolo(flat, workers=0).skipped


def test_two_lists_of_names_that_differ(flat):
    (flat / "data.yaml").write_text("names: [a, b]\n")
    (flat / "classes.txt").write_text("b\na\n")
    found = read_yolo(flat, workers=0)
    assert found.classes == ("a", "b") and "another order than the description" in found.notes[0]
    (flat / "classes.txt").write_text("a\r\nb\r\n")
    assert not read_yolo(flat, workers=0).notes
    (flat / "obj.names").write_text("\ufeffa\nb")
    assert not read_yolo(flat, workers=0).notes, "the same names as on another system"
