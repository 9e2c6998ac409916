import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rexnet.data.checks.images import CheckConfig, check
from rexnet.data.datasets import open_dataset
from rexnet.data.datasets.shard_writing import ShardConfig, write_shards
from tests.drawings import draw


def run(data, **options):
    return check(CheckConfig(data=str(data), **{"workers": 0, **options}))


def short(names) -> list[str]:
    return ["/".join(Path(name).parts[-3:]) for name in names]


def filled(problems: dict[str, list]) -> set[str]:
    return {problem for problem, found in problems.items() if found}


class TestCleanSets:
    def test_two_splits(self, image_folder):
        report = run(image_folder)
        assert report.clean and report.images == 48
        assert report.classes == {"train": {"cat": 12, "dog": 12, "fox": 12}, "val": {"cat": 4, "dog": 4, "fox": 4}}
        assert report.balance["train"] == {"smallest": 12, "largest": 12, "ratio": 1.0}
        assert report.size_px["width"] == {"smallest": 48, "median": 48, "largest": 48}
        assert report.size_px["shorter_side"]["median"] == 40

    def test_one_folder_shards_and_named_sets(self, image_folder, tmp_path):
        assert run(image_folder / "train").classes.keys() == {""}
        write_shards(ShardConfig(data=str(image_folder), output=str(tmp_path / "out"), workers=0))
        assert run(tmp_path / "out").clean and run(tmp_path / "out").images == 48
        digits = run("digits")
        assert digits.clean and digits.images == 1797, "8 x 8 pixels are not tiny among their like"

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_workers_change_nothing(self, image_folder, workers):
        for number in range(100):
            draw("cat", number % 60).save(image_folder / "train" / "cat" / f"n{number}.png")
        (image_folder / "val" / "dog" / "0.jpg").write_bytes(b"no")
        assert run(image_folder, workers=workers) == run(image_folder)


class TestProblems:
    def test_unreadable_files_outside_class_folders(self, image_folder, tmp_path):
        """`rexnet predict FOLDER` reads them, and sends people here."""
        (tmp_path / "flat").mkdir()
        for place in (image_folder / "beside.jpg", image_folder / "train" / "loose.jpg", tmp_path / "flat" / "a.jpg"):
            place.write_text("<html>")
        draw("cat", 1).save(tmp_path / "flat" / "b.jpg")
        report = run(image_folder)
        assert short(row["image"] for row in report.unreadable) == [
            "/".join([image_folder.parent.name, "images", "beside.jpg"]),
            "images/train/loose.jpg",
        ]
        assert report.images == 48 and {Path(path).name for path in report.outside_classes} == {
            "loose.jpg",
            "beside.jpg",
        }
        report = run(tmp_path / "flat")
        assert [Path(row["image"]).name for row in report.unreadable] == ["a.jpg"] and len(report.outside_classes) == 2

    def test_unreadable(self, image_folder):
        cats = image_folder / "train" / "cat"
        (cats / "0.jpg").write_bytes((cats / "0.jpg").read_bytes()[:200])
        (cats / "empty.jpg").touch()
        (cats / "page.jpg").write_text("<html>")
        (cats / "link.jpg").symlink_to("nowhere")
        report = run(image_folder)
        reasons = {Path(row["image"]).name: row["reason"] for row in report.unreadable}
        assert set(reasons) == {"0.jpg", "empty.jpg", "page.jpg", "link.jpg"}
        assert "damaged" in reasons["0.jpg"] and "empty" in reasons["empty.jpg"] and "link" in reasons["link.jpg"]
        assert filled(report.problems()) == {"cannot be read"} and not report.clean
        assert report.classes["train"]["cat"] == 15

    def test_duplicates_by_pixels_within_across_classes_and_splits(self, image_folder):
        train, val = image_folder / "train", image_folder / "val"
        shutil.copy(train / "cat" / "0.jpg", train / "cat" / "copy.jpg")
        with Image.open(train / "dog" / "1.png") as image:
            image.save(train / "fox" / "same pixels.bmp")
        shutil.copy(train / "dog" / "3.png", val / "dog" / "leak.png")
        shutil.copy(train / "fox" / "5.png", val / "cat" / "both.png")
        shutil.copy(train / "fox" / "5.png", train / "fox" / "thrice.png")
        report = run(image_folder)
        assert [short(group) for group in report.duplicates_within_class] == [["train/cat/0.jpg", "train/cat/copy.jpg"]]
        both = ["train/fox/5.png", "train/fox/thrice.png", "val/cat/both.png"]
        assert [short(group) for group in report.duplicates_across_classes] == [
            ["train/dog/1.png", "train/fox/same pixels.bmp"],
            both,
        ]
        assert [short(g) for g in report.duplicates_across_splits] == [["train/dog/3.png", "val/dog/leak.png"], both]

    def test_images_of_one_colour_and_different_shape_are_not_duplicates(self, tmp_path):
        for label, size in (("a", (40, 50)), ("a", (50, 40)), ("b", (20, 100))):
            (tmp_path / label).mkdir(exist_ok=True)
            Image.new("RGB", size, "red").save(tmp_path / label / f"{size}.png")
        assert run(tmp_path, min_size_px=1).clean

    def test_extension_of_another_format(self, image_folder):
        os.rename(image_folder / "train" / "cat" / "1.png", image_folder / "train" / "cat" / "really a png.JPG")
        os.rename(image_folder / "train" / "cat" / "2.jpg", image_folder / "train" / "cat" / "2.jfif")
        draw("cat", 99).save(image_folder / "val" / "cat" / "x.tif", "WEBP")
        draw("cat", 98).save(image_folder / "val" / "cat" / "y.jpg_large", "JPEG")
        draw("cat", 97).save(image_folder / "val" / "cat" / "photo", "JPEG")
        report = run(image_folder)
        found = {Path(row["image"]).name: row["content"] for row in report.wrong_extension}
        assert found == {"really a png.JPG": "PNG", "x.tif": "WEBP", "y.jpg_large": "JPEG", "photo": "JPEG"}
        assert filled(report.problems()) == {"extension of another format"}

    def test_tiny_follows_the_set_unless_a_limit_is_given(self, image_folder):
        draw("cat", 99).resize((60, 9)).save(image_folder / "train" / "cat" / "strip.png")
        report = run(image_folder)
        assert report.min_size_px == 10
        assert [(Path(t["image"]).name, t["width_px"], t["height_px"]) for t in report.tiny] == [("strip.png", 60, 9)]
        assert run(image_folder, min_size_px=9).clean
        assert len(run(image_folder, min_size_px=41).tiny) == 49

    def test_rotated_images_are_measured_upright(self, image_folder):
        exif = Image.Exif()
        exif[274] = 6
        draw("cat", 99, (400, 300)).save(image_folder / "train" / "cat" / "turned.jpg", exif=exif)
        assert run(image_folder).size_px["height"]["largest"] == 400

    def test_places(self, image_folder):
        shutil.copy(image_folder / "val" / "cat" / "0.jpg", image_folder / "val" / "loose\n.jpg")
        (image_folder / "train" / "emu").mkdir()
        (image_folder / "val" / ".cache").mkdir()
        shutil.rmtree(image_folder / "val" / "fox")
        report = run(image_folder)
        assert short(report.outside_classes) == ["images/val/loose\\n.jpg"]
        assert report.empty_classes == {"train": ["emu"], "val": []}
        assert report.missing_classes == {"train": [], "val": ["emu", "fox"]}
        assert report.balance["train"]["smallest"] == 12, "an empty class is a problem of its own"

    def test_three_splits(self, image_folder):
        shutil.copytree(image_folder / "val", image_folder / "test")
        report = run(image_folder)
        assert report.classes.keys() == {"train", "val", "test"} and len(report.duplicates_across_splits) == 12

    def test_shards_with_a_bad_image(self, tmp_path, image_folder):
        write_shards(ShardConfig(data=str(image_folder), output=str(tmp_path / "out"), workers=0))
        tar = tmp_path / "out" / "val" / "000000.tar"
        data = bytearray(tar.read_bytes())
        data[512:700] = b"x" * 188
        tar.write_bytes(data)
        report = run(tmp_path / "out")
        assert [row["image"].startswith("val/000000.tar/") for row in report.unreadable] == [True]

    def test_classes_of_one_image_and_imbalance(self, image_folder):
        for number in range(1, 12):
            for path in (image_folder / "train" / "dog").glob(f"{number}.*"):
                path.unlink()
        report = run(image_folder)
        assert report.clean and report.balance["train"] == {"smallest": 1, "largest": 12, "ratio": 12.0}


class TestEdges:
    def test_no_images(self, tmp_path):
        for data, said in (
            (tmp_path, "no images"),
            (tmp_path / "x", "does not exist"),
            ("digit", "not exist"),
        ):
            with pytest.raises(ValueError, match=said):
                run(data)
        (tmp_path / "empty class").mkdir()
        with pytest.raises(ValueError, match="no images"):
            run(tmp_path)

    def test_only_loose_images(self, tmp_path):
        draw("cat", 1).save(tmp_path / "1.png")
        report = run(tmp_path)
        assert len(report.outside_classes) == 1 and not report.clean and report.size_px["width"] == {}

    def test_nothing_readable(self, tmp_path):
        for label in ("a", "b"):
            (tmp_path / label).mkdir()
            (tmp_path / label / "x.jpg").touch()
        report = run(tmp_path)
        assert len(report.unreadable) == 2 and not report.tiny

    def test_names_that_are_not_valid_text(self, image_folder):
        path = image_folder / "train" / "cat" / os.fsdecode(b"bad\xff\n.png")
        path.touch()
        report = run(image_folder)
        content = json.loads(report.to_json())
        assert content["clean"] is False and content["unreadable"][0]["image"].endswith(r"bad\udcff\n.png")
        report.to_json().encode("utf-8")

    def test_thousands_of_duplicates(self, tmp_path):
        (tmp_path / "a").mkdir()
        draw("cat", 1).save(tmp_path / "a" / "0.png")
        for number in range(1, 2000):
            os.link(tmp_path / "a" / "0.png", tmp_path / "a" / f"{number}.png")
        assert [len(group) for group in run(tmp_path, workers=2).duplicates_within_class] == [2000]

    @pytest.mark.parametrize("options", [{"min_size_px": 0}, {"workers": -1}])
    def test_settings(self, options):
        with pytest.raises(ValueError, match="or more"):
            CheckConfig(data="x", **options)

    def test_flowers17(self, shared_data, tmp_path):
        import tarfile

        with tarfile.open(shared_data / "flowers17.tar") as archive:
            members = [m for m in archive.getmembers() if m.name.startswith("test/")]
            archive.extractall(tmp_path, members=members, filter="data")
        (tmp_path / "test").rename(tmp_path / "train")
        report = run(tmp_path, workers=2)
        assert report.clean and report.images == 272
        assert np.unique(list(report.classes["train"].values())).tolist() == [16]


class TestRefusedByTraining:
    """What `rexnet train` refuses is a finding."""

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (("a/1.png", "a/2.png"), "one class"),
            (("a/1.png", "b/2.png"), "no class .* has two images"),
            (("all/a/1.png", "all/a/2.png", "all/b/3.png"), "if a, b in .*/all are the classes"),
            (("1.png", "2.png"), "no class folders"),
            (("val/a/1.png", "val/b/2.png"), "no train/"),
            (("train/a/1.png", "train/b/2.png", "val/a/3.png"), "val has no images of the class b"),
        ],
    )
    def test_similar_names_are_a_finding(self, tmp_path, names, said):
        for number, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            draw("cat", number).save(tmp_path / name)
        report = run(tmp_path)
        with pytest.raises(ValueError, match=said) as refused:
            open_dataset(tmp_path).for_training()
        assert report.refused == [str(refused.value)] and not report.clean

    def test_names_that_are_almost_equal(self, image_folder):
        for name in ("Cat", "dog "):
            for split in ("train", "val"):
                shutil.copytree(image_folder / split / "cat", image_folder / split / name)
        assert run(image_folder).near_equal_classes == [["Cat", "cat"], ["dog", "dog "]]


def test_formats_that_cannot_be_read(image_folder, caplog):
    shutil.copy(next((image_folder / "train" / "dog").iterdir()), image_folder / "train" / "dog" / "IMG_1.HEIC")
    for name in ("train/cat/x.heic", "val/y.svg", "z.heic"):
        (image_folder / name).write_bytes(b"\0\0\0\x18ftypheic" if name.endswith("heic") else b"<svg>")
    report = run(image_folder)
    assert [Path(row["image"]).name for row in report.unreadable] == ["x.heic", "y.svg", "z.heic"]
    assert "HEIC format; convert it to JPEG or PNG" in report.unreadable[0]["reason"] and not report.clean
    assert [Path(row["image"]).name for row in report.wrong_extension] == ["IMG_1.HEIC"]
    assert caplog.text.count("1 .heic file cannot be read") == 1 and report.notes == []


def test_names_that_look_alike(tmp_path):
    names = ("cat", "cat\u200b", "\uff43at", "catty")
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        draw("cat", number).save(tmp_path / name / "1.png")
    assert run(tmp_path).near_equal_classes == [["cat", "cat\\u200b", "\uff43at"]]
