import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rexnet.data.boxes.coco import load_coco_sets
from rexnet.data.boxes.convert import ConvertConfig, convert_data


def convert(source, output, **options):
    return convert_data(ConvertConfig(data=str(source), output=str(output), **{"workers": 0, **options}))


def picture(path: Path, width: int = 40, height: int = 30, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.stem)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def voc_object(name="dog", box=(1, 1, 40, 30), difficult=0) -> str:
    edges = "".join(f"<{e}>{v}</{e}>" for e, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{edges}</bndbox></object>"


def voc_image(root: Path, name: str, *objects: str, size: str | None = None, head: str = "") -> None:
    picture(root / "JPEGImages" / f"{name}.jpg")
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>" if size is None else size
    (root / "Annotations").mkdir(exist_ok=True)
    text = f"{head}<annotation><filename>{name}.jpg</filename>{size}{''.join(objects)}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text)


def voc_lists(root: Path, **sides: str) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    for side, names in sides.items():
        (folder / f"{side}.txt").write_text(names)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


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
        assert found.classes == ("cat", "dog", "emu") and found.left_out == []
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

    def test_what_cannot_be_used_is_named(self, source, tmp_path):
        bad = [voc_object("x", (9, 1, 3, 5)), voc_object("", (1, 1, 2, 2)), voc_object("y", ("a", 1, 2, 2))]
        voc_image(source, "000004", *bad, voc_object("y", (float("nan"), 1, 2, 2)), voc_object("fox"))
        voc_image(source, "000005")
        (source / "Annotations" / "000005.xml").write_text("<annotation><object>")
        voc_image(source, "000006")
        (source / "JPEGImages" / "000006.jpg").unlink()
        voc_image(source, "000007", size="<size><width>0</width><height>0</height></size>")
        (source / "JPEGImages" / "000007.jpg").write_bytes(b"")
        names = ["000001", "000004", "000005", "000006", "000007", "000008", "../../secret"]
        voc_lists(source, train="\n".join(names))
        found = convert(source, tmp_path / "out")
        assert found.images["train"] == 2 and found.boxes["train"] == 4
        assert len(found.left_out) == 10
        for name, said in [
            ("Annotations:", "lack 1 of 7 files, such as 000002.xml"),
            ("000004.xml: object 1 (x)", "without area"),
            ("000004.xml: object 2", "no name"),
            ("000004.xml: object 3 (y)", "numbers"),
            ("000004.xml: object 4 (y)", "numbers"),
            ("000005.xml", "no element"),
            ("000006.xml", "no image"),
            ("000007.jpg", "empty"),
            ("000008.xml", "no such file"),
            ("secret.xml", "no such file"),
        ]:
            assert any(name in line and said in line for line in found.left_out), (name, found.left_out)

    def test_listed_names_may_have_blanks(self, source, tmp_path):
        voc_image(source, "my photo (1)", voc_object())
        voc_lists(source, train="000001  1\nmy photo (1)\n000002 -1\n")
        found = convert(source, tmp_path / "out")
        assert found.images == {"train": 3, "val": 1} and found.left_out == []

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
        assert len(found.left_out) == 1 and "000002.xml" in found.left_out[0]
        assert "DOCTYPE" in found.left_out[0] or encoding == "cp037"

    def test_without_lists_a_fifth_is_held_back(self, source, tmp_path):
        for file in (source / "ImageSets" / "Main").iterdir():
            file.unlink()
        for number in range(10, 17):
            voc_image(source, f"{number}", voc_object())
        assert convert(source, tmp_path / "a").images == {"train": 8, "val": 2}
        assert convert(source, tmp_path / "b", val_fraction=0.5).images == {"train": 5, "val": 5}
        convert(source, tmp_path / "c", seed=0)
        assert files_of(tmp_path / "a") == files_of(tmp_path / "c")

    def test_a_split_that_is_there_takes_no_fraction(self, source, tmp_path):
        with pytest.raises(ValueError, match=r"--val-fraction is 0\.5; allowed: none"):
            convert(source, tmp_path / "out", val_fraction=0.5)


class TestYolo:
    @pytest.fixture
    def source(self, tmp_path):
        root = tmp_path / "yolo"
        for side, names in (("train", ("a", "deep/b", "empty")), ("val", ("c",))):
            for name in names:
                picture(root / "images" / side / f"{name}.png")
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
        assert found.classes == ("dog", "cat", "7") and not found.left_out
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
            ("dog 0.5 0.5 0.1 0.1", "no number"),
            ("0 nan 0.5 0.1 0.1", "not finite"),
            ("0 20 15 10 10", "outside 0 to 1"),
            ("0 0.5 0.5 0 0.1", "no area"),
            ("0 0.1 0.1 0.1 0.5 0.1 0.9", "no area"),
        ],
    )
    def test_a_bad_line_is_named_and_the_others_stay(self, source, tmp_path, line, said):
        (source / "labels" / "train" / "a.txt").write_text(f"0 0.5 0.5 1 1\n\n{line}\n1 0.25 0.5 0.1 0.2\n")
        found = convert(source, tmp_path / "out")
        assert found.boxes["train"] == 3 and len(found.left_out) == 1
        assert "a.txt, line 3: " in found.left_out[0] and said in found.left_out[0]

    def test_upright_size_and_a_bad_picture(self, source, tmp_path):
        exif = Image.Exif()
        exif[274] = 6
        picture(source / "images" / "train" / "a.png", exif=exif)
        (source / "images" / "train" / "empty.png").write_bytes(b"")
        found = convert(source, tmp_path / "out")
        assert found.images["train"] == 2 and "empty.png: the file is empty" in found.left_out[0]
        sets = load_coco_sets(tmp_path / "out")
        assert sets.train.size_px(0) == (40, 30) and sets.train.load(0).size == (30, 40)
        np.testing.assert_allclose(sets.train.target(0)["boxes"][1], [6, 16, 9, 24], atol=1e-5)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("names: !!python/object/apply:os.system ['touch SENTINEL']", "not plain YAML"),
            ("names: [a, b", "not plain YAML"),
            ("- a", "holds a list"),
            ("train: images/train", "names no classes"),
            ("names: [a, a, b]", "two classes named 'a'"),
            ("names: {0: a, 2: b}", "numbered from 0"),
            ("names: [a, b, c]\ntrain: [x, y]", "no name of a folder"),
            ("names: [a, b, c]\ntrain: outside", "leads out"),
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
            picture(root / place / "images" / "x.png")
            picture(root / place / "images" / "y.png")
            (root / place / "labels").mkdir()
            (root / place / "labels" / "x.txt").write_text("0 0.5 0.5 1 1")
        (root / "classes.txt").write_text("dog\n\ncat\n")
        found = convert(root, tmp_path / "out")
        assert sum(found.images.values()) == (4 if names != "flat" else 2)
        assert sum(found.boxes.values()) == (2 if names != "flat" else 1) and found.classes == ("dog", "cat")


class TestOutput:
    def test_never_overwrites(self, tmp_path):
        source = tmp_path / "yolo"
        picture(source / "images" / "x.png")
        picture(source / "images" / "yy.png")
        (source / "classes.txt").write_text("a")
        full = tmp_path / "full"
        full.mkdir()
        (full / "keep").write_text("x")
        for output, said in (
            (full, "holds files, such as keep"),
            (full / "keep", "is a file"),
            (source / "out", "lies in"),
            (tmp_path / "no" / "out", "there is no folder"),
        ):
            with pytest.raises(ValueError, match=said):
                convert(source, output)
        (tmp_path / "empty").mkdir()
        assert sum(convert(source, tmp_path / "empty").images.values()) == 2
        assert os.stat(tmp_path / "empty" / "val").st_nlink >= 2 and len(files_of(full)) == 1
        assert not [name for name in os.listdir(tmp_path) if "unfinished" in name]

    def test_copies_where_links_cannot_be(self, tmp_path, monkeypatch):
        source = tmp_path / "yolo"
        picture(source / "images" / "x.png")
        picture(source / "images" / "yy.png")
        (source / "classes.txt").write_text("a")
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "another disk")))
        convert(source, tmp_path / "out")
        assert len(list((tmp_path / "out").rglob("*.png"))) == 2

    def test_neither_layout(self, tmp_path):
        (tmp_path / "x").mkdir()
        for options, said in (
            ({}, "neither"),
            ({"format": "voc"}, "lacks Annotations/"),
            ({"format": "yolo"}, "no classes"),
        ):
            with pytest.raises(ValueError, match=said):
                convert(tmp_path / "x", tmp_path / "out", **options)
        with pytest.raises(ValueError, match="is no folder"):
            convert(tmp_path / "y", tmp_path / "out")

    @pytest.mark.parametrize("fields", [{"val_fraction": 1.0}, {"seed": -1}, {"workers": -1}])
    def test_settings(self, fields):
        with pytest.raises(ValueError, match="allowed:"):
            ConvertConfig(data="x", output="y", **fields)
