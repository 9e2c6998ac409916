import json
import shutil
from pathlib import Path

import pytest

from rexnet.data.boxes.coco import load_coco_sets
from rexnet.data.boxes.convert import read_boxed_images
from rexnet.data.boxes.voc import read_voc
from rexnet.data.datasets import open_dataset
from tests.boxed_files import convert, files_of, voc_image, voc_lists, voc_object, write_image


class TestVoc:
    @pytest.fixture
    def source(self, tmp_path):
        root = tmp_path / "VOC2007"
        voc_image(root, "000001", voc_object(), voc_object("cat", (11, 6, 11, 6)), voc_object("cat", (8, 5, 20, 25), 1))
        voc_image(root, "000002", size="")
        voc_image(root, "000003", voc_object("emu", (1.5, 2, 9.5, 3)))
        voc_lists(root, train="000001\n000002 1\n", val="000003\n")
        return root

    def test_by_hand(self, source, tmp_path):
        before = files_of(source)
        found = convert(source, tmp_path / "out")
        assert found.images == {"train": 2, "val": 1} and found.boxes == {"train": 3, "val": 1}
        assert found.classes == ("cat", "dog", "emu") and found.skipped == []
        sets = load_coco_sets(tmp_path / "out")
        assert sets.train.counts == {} and sets.classes == found.classes
        first = sets.train.target(0)
        assert first["boxes"].tolist() == [[0, 0, 40, 30], [10, 5, 11, 6], [7, 4, 20, 25]]
        assert first["labels"].tolist() == [2, 1, 1] and first["iscrowd"].tolist() == [0, 0, 1]
        truth = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
        assert [row["bbox"] for row in truth["annotations"]] == [[0, 0, 40, 30], [10, 5, 1, 1], [7, 4, 13, 21]]
        assert sets.train.size_px(1) == (30, 40) and len(sets.train.target(1)["boxes"]) == 0
        assert sets.val.target(0)["boxes"].tolist() == [[0.5, 1, 9.5, 3]]
        assert sets.train.load(0).size == (40, 30)
        assert files_of(source) == before

    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            (voc_object("x", (9, 1, 3, 5)), "object 2 (x) has a bndbox without an area"),
            (voc_object("", (1, 1, 2, 2)), "object 2 has no name"),
            (voc_object("y", ("a", 1, 2, 2)), "object 2 (y)"),
            (voc_object("y", (float("nan"), 1, 2, 2)), "object 2 (y)"),
            (voc_object("y", difficult="maybe"), "'maybe'; allowed: 0, 1"),
            ("<size><width>30</width><height>41</height></size>", "states 30 x 41 px, but the image has 40 x 30"),
        ],
    )
    def test_an_image_with_an_unreadable_label_is_skipped(self, source, tmp_path, bad, said):
        is_size = bad.startswith("<size>")
        objects = [voc_object("fox")] if is_size else [voc_object("fox"), bad]
        voc_image(source, "000004", *objects, size=bad if is_size else None)
        voc_lists(source, train="000001\n000002\n000004\n")
        found = convert(source, tmp_path / "out")
        assert found.images["train"] == 2 and found.boxes["train"] == 3
        assert found.classes == ("cat", "dog", "emu"), "a class of skipped images only has no objects"
        (skipped,) = found.skipped
        assert skipped.file.endswith("JPEGImages/000004.jpg") and skipped.objects == len(objects)
        assert "000004.xml" in skipped.reason and said in skipped.reason

    def test_missing_and_truncated_files(self, source, tmp_path, caplog):
        voc_image(source, "000005")
        (source / "Annotations" / "000005.xml").write_text("<annotation><object>")
        voc_image(source, "000006", voc_object(), voc_object("cat"))
        (source / "JPEGImages" / "000006.jpg").unlink()
        voc_image(source, "000007", voc_object(), size="<size><width>0</width><height>0</height></size>")
        (source / "JPEGImages" / "000007.jpg").write_bytes(b"")
        names = ["000001", "000005", "000006", "000007", "000008", "../../secret"]
        voc_lists(source, train="\n".join(names))
        found = convert(source, tmp_path / "out")
        assert found.images["train"] == 1 and found.boxes["train"] == 3
        assert {(Path(file).name, objects) for file, objects, _ in found.skipped} == {
            ("000005.jpg", 1),
            ("000006.xml", 2),
            ("000007.jpg", 1),
            ("000008.xml", 0),
            ("secret.xml", 0),
        }
        assert "lacks 1 of 6 .xml files, such as 000002.xml" in caplog.text

    def test_listed_names_may_contain_spaces(self, source, tmp_path):
        voc_image(source, "my photo (1)", voc_object())
        voc_lists(source, train="000001  1\nmy photo (1)\n000002 -1\n")
        found = convert(source, tmp_path / "out")
        assert found.images == {"train": 3, "val": 1} and found.skipped == []

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp037"])
    def test_declarations_are_refused(self, source, tmp_path, encoding):
        """Entities can make a short file huge, or read others."""
        laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
        secret = f'<!ENTITY s SYSTEM "file://{tmp_path}/secret">'
        head = f'<?xml version="1.0" encoding="{encoding}"?>'
        named = "<annotation><object><name>&l9;&s;</name></object></annotation>"
        body = f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}{secret}]>{named}'
        (tmp_path / "secret").write_text("secret")
        split = head.encode() + body.encode(encoding) if encoding == "cp037" else (head + body).encode(encoding)
        (source / "Annotations" / "000002.xml").write_bytes(split)
        found = convert(source, tmp_path / "out")
        (skipped,) = found.skipped
        assert "000002.xml" in skipped.reason
        assert "DOCTYPE" in skipped.reason or encoding == "cp037"

    def test_without_lists_a_fifth_is_the_validation_split(self, source, tmp_path):
        for file in (source / "ImageSets" / "Main").iterdir():
            file.unlink()
        for number in range(10, 17):
            voc_image(source, f"{number}", voc_object())
        assert convert(source, tmp_path / "a").images == {"train": 8, "val": 2}
        assert convert(source, tmp_path / "b", val_fraction=0.5).images == {"train": 5, "val": 5}
        convert(source, tmp_path / "c", seed=0)
        assert files_of(tmp_path / "a") == files_of(tmp_path / "c")

    def test_a_validation_split_excludes_val_fraction(self, source, tmp_path):
        with pytest.raises(ValueError, match=r"--val-fraction is 0\.5; allowed: none"):
            convert(source, tmp_path / "out", val_fraction=0.5)

    def test_train_alone_gives_the_validation_split(self, source, tmp_path, caplog):
        """What train.txt does not name is not used, and no image is trained on and validated on."""
        for number in range(10, 20):
            voc_image(source, f"{number}", voc_object())
        (source / "ImageSets" / "Main" / "val.txt").unlink()
        voc_lists(source, train="\n".join(map(str, range(10, 20))))
        found = convert(source, tmp_path / "out")
        assert found.images == {"train": 8, "val": 2}
        names = [path.stem for path in (tmp_path / "out").rglob("*.jpg")]
        assert sorted(names) == [str(number) for number in range(10, 20)]
        assert "there is no validation split, so one is drawn" in caplog.text and "000001.xml" in caplog.text

    def test_a_test_split_is_kept(self, source, tmp_path):
        voc_image(source, "000009", voc_object("cat"))
        voc_lists(source, test="000009\n")
        assert convert(source, tmp_path / "out").images == {"train": 2, "val": 1, "test": 1}
        truth = json.loads((tmp_path / "out" / "annotations" / "instances_test.json").read_text())
        assert [image["file_name"] for image in truth["images"]] == ["000009.jpg"]

    @pytest.mark.parametrize(
        ("lists", "images"),
        [
            ({"train": "000001\n000002", "test": "000003"}, {"train": 2, "val": 1}),
            ({"trainval": "000001\n000002", "test": "000003"}, {"train": 2, "val": 1}),
            ({"trainval": "000001\n000002"}, {"train": 1, "val": 1}),
            ({"val": "000001"}, None),
        ],
    )
    def test_which_lists_count(self, source, tmp_path, lists, images):
        for file in (source / "ImageSets" / "Main").iterdir():
            file.unlink()
        voc_lists(source, **lists)
        if images is None:
            with pytest.raises(ValueError, match=r"has val\.txt, but no train\.txt"):
                convert(source, tmp_path / "out")
        else:
            assert convert(source, tmp_path / "out").images == images

    def test_a_byte_order_mark_and_normal_forms(self, source, tmp_path):
        composed, decomposed = "caf\u00e9", "cafe\u0301"
        voc_image(source, composed, voc_object(decomposed))
        file = source / "ImageSets" / "Main" / "train.txt"
        file.write_bytes("\ufeff000001\r\n".encode() + f"{decomposed}\r\n".encode())
        found = convert(source, tmp_path / "out")
        assert found.images["train"] == 2 and not found.skipped
        assert composed in found.classes and decomposed not in found.classes


def test_images_of_files_outside_the_root_are_skipped(tmp_path):
    """Objects in a namespace are not found; their image must not become one without objects."""
    for name in "abc":
        voc_image(tmp_path, name, voc_object())
    file = tmp_path / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("<annotation>", '<annotation xmlns="http://x.y">'))
    (tmp_path / "Annotations" / "b.xml").unlink()
    found = read_voc(tmp_path, workers=0)
    assert [(Path(row.file).name, row.objects) for row in found.skipped] == [("a.jpg", 1)]
    assert "1 image has no .xml file" in found.notes[0] and "b.jpg" in found.notes[0]


@pytest.mark.parametrize("place", ["ImageSets", "ImageSets/Segmentation"])
def test_lists_elsewhere_are_not_replaced_by_a_random_split(tmp_path, place):
    voc_image(tmp_path, "a", voc_object())
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "val.txt").write_text("a")
    with pytest.raises(ValueError, match=r"val\.txt, but none in ImageSets/Main; move it there"):
        read_voc(tmp_path, workers=0)


def test_extensions_in_capitals_and_hidden_files(tmp_path):
    for name in ("a", "b"):
        voc_image(tmp_path, name, voc_object())
    folder = tmp_path / "Annotations"
    (folder / "b.xml").rename(folder / "b.XML")
    (folder / "._a.xml").write_bytes(b"\0\5\x16\7")
    voc_lists(tmp_path, train="a\n", val="b\n")
    found = read_voc(tmp_path, workers=0)
    assert {split: len(images) for split, images in found.splits.items()} == {"train": 1, "val": 1}
    assert not found.skipped and not found.notes
    shutil.rmtree(tmp_path / "ImageSets")
    assert len(read_voc(tmp_path, workers=0).splits[None]) == 2


def test_two_images_for_one_annotation_file_are_ambiguous(tmp_path):
    for name in "ab":
        voc_image(tmp_path, name, voc_object())
    write_image(tmp_path / "JPEGImages" / "a.png")
    found = read_voc(tmp_path, workers=0)
    assert [(Path(row.file).name, row.objects) for row in found.skipped] == [("a.xml", 1)]
    assert "a.jpg and " in found.skipped[0].reason and "a.png; it could mean either" in found.skipped[0].reason
    assert [Path(image.path).name for image in found.splits[None]] == ["b.jpg"]


def test_fractions_for_pixels_are_refused(tmp_path):
    voc_image(tmp_path, "a", voc_object(box=(0.1, 0.1, 0.5, 0.9)))
    with pytest.raises(ValueError, match="boxes within 0 to 1 only"):
        read_voc(tmp_path, workers=0)


def test_images_of_two_lists_are_counted(tmp_path):
    for name in "abcd":
        voc_image(tmp_path, name, voc_object())
    voc_lists(tmp_path, train="a\nb\nc\na\na\n", val="c\nd\n", test="d\n")
    (tmp_path / "SegmentationObject").mkdir()
    notes = read_voc(tmp_path, workers=0).notes
    assert notes == [
        "2 lines repeat an image of train; each image is used once",
        "1 of 2 images of val are also in train",
        "1 of 1 images of test are also in val",
        "the outlines in SegmentationObject are not read; objects have boxes only",
    ]


@pytest.mark.parametrize("lists", [{"train": "a/1\nb/1\n", "val": "2\n"}, {}])
def test_sub_folders_of_cvat(tmp_path, lists):
    root = tmp_path / "cvat"
    for name, label in (("a/1", "dog"), ("b/1", "cat"), ("2", "emu")):
        voc_image(root, name, voc_object(label))
    voc_lists(root, **lists)
    found = read_voc(root, workers=0)
    images = [image for split in found.splits.values() for image in split]
    assert {image.file_name: image.boxes[0].name for image in images} == {
        "a/1.jpg": "dog",
        "b/1.jpg": "cat",
        "2.jpg": "emu",
    }
    assert not found.skipped and not found.notes


def beside(root: Path, name: str, *objects: str) -> None:
    """An image with its XML file beside it, as LabelImg and Roboflow write them."""
    voc_image(root, name, *objects)
    for kind, ending in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / kind / f"{name}.{ending}").rename(root / f"{name}.{ending}")
        shutil.rmtree(root / kind)


def test_files_beside_the_images_are_split_by_their_folders(tmp_path):
    root = tmp_path / "roboflow"
    for name, label in (("train/1", "dog"), ("train/2", "cat"), ("valid/1", "cat"), ("test/3", "emu"), ("more/4", "x")):
        beside(root, name, voc_object(label, (2, 3, 11, 22)))
    found = read_voc(root, workers=0)
    assert {s: [(i.file_name, i.boxes[0].name) for i in images] for s, images in found.splits.items()} == {
        "train": [("1.jpg", "dog"), ("2.jpg", "cat")],
        "val": [("1.jpg", "cat")],
        "test": [("3.jpg", "emu")],
    }
    assert found.splits["val"][0].boxes[0].box == (1, 2, 10, 20) and found.classes == ("cat", "dog", "emu")
    assert found.notes == ["train/, valid/ and test/ lack 1 of 5 .xml files, such as more/4.xml"] and not found.skipped
    converted = convert(root, tmp_path / "out")
    assert converted.images == {"train": 2, "val": 1, "test": 1}
    assert (tmp_path / "out" / "val" / "1.jpg").is_file()
    beside(root, "val/1", voc_object())
    with pytest.raises(ValueError, match="val are in val and valid; keep one"):
        read_voc(root, workers=0)


def test_one_folder_with_images_and_files(tmp_path):
    for name in "ab":
        beside(tmp_path, name, voc_object())
    write_image(tmp_path / "c.jpg")
    (tmp_path / "other.xml").write_text("<note/>")
    found = read_voc(tmp_path, workers=0)
    assert [image.file_name for image in found.splits[None]] == ["a.jpg", "b.jpg"]
    assert ["c.jpg" in note for note in found.notes] == [True]
    assert [Path(row.file).name for row in found.skipped] == ["other.xml"]
    assert open_dataset(tmp_path).kind == "voc"


def test_folders_in_lower_case(tmp_path):
    voc_image(tmp_path, "a", voc_object())
    (tmp_path / "Annotations").rename(tmp_path / "annotations")
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    assert [image.file_name for image in read_voc(tmp_path, workers=0).splits[None]] == ["a.jpg"]


def test_class_folders_with_another_xml_file_are_not_of_this_layout(tmp_path):
    write_image(tmp_path / "train" / "cat" / "a.jpg")
    (tmp_path / "meta.xml").write_text("<note/>")
    assert open_dataset(tmp_path).kind == "folder"
    with pytest.raises(ValueError, match="or XML files beside the images"):
        read_voc(tmp_path, workers=0)


def test_data_in_two_layouts(tmp_path):
    for name in "ab":
        beside(tmp_path / "in", name, voc_object())
    (tmp_path / "in" / "classes.txt").write_text("dog")
    notes = read_boxed_images(tmp_path / "in", workers=0).notes
    assert notes == ["it is in VOC's and in YOLO's layout, and is read as VOC; --format yolo reads the other"]


def test_an_image_has_one_file(tmp_path):
    root = tmp_path / "twice"
    for name, label in (("1", "dog"), ("a/1", "cat")):
        voc_image(root, name, voc_object(label))
    (root / "JPEGImages" / "1.jpg").unlink()
    found = read_voc(root, workers=0)
    (image,), (skipped,) = found.splits[None], found.skipped
    assert (image.file_name, [box.name for box in image.boxes]) == ("a/1.jpg", ["cat"])
    assert skipped.objects == 1 and "contains no image of this name" in skipped.reason
