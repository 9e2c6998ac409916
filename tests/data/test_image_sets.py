import os
import pickle
import shutil
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from rexnet.data.image_sets import load_image_sets, load_labelled_images, small_images
from rexnet.data.labelled_images import ArrayImages, FileImages
from rexnet.data.named_sets import stratified_split


def make(root: Path, *names: str, size: tuple[int, int] = (9, 7)) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number % 256, number // 256, 77)).save(path)
    return root


def names_of(images) -> list[str]:
    return [images.name(index) for index in range(len(images))]


class TestTwoFolders:
    def test_what_it_finds(self, image_folder):
        sets = load_image_sets(image_folder)
        assert sets.classes == sets.val.classes == ("cat", "dog", "fox")
        assert (len(sets.train), len(sets.val)) == (36, 12)
        assert sets.description == "images: 36 train / 12 val images of 3 classes (train/, val/)"
        for images in (sets.train, sets.val):
            assert images.targets.dtype == np.int64 and not images.missing_classes
            for index, name in enumerate(names_of(images)):
                assert Path(name).parent.name == images.classes[images.targets[index]]
                assert images.load(index).mode == "RGB"

    @pytest.mark.parametrize("name", ["valid", "validation", "test"])
    def test_other_names_for_val(self, image_folder, name):
        (image_folder / "val").rename(image_folder / name)
        assert f"(train/, {name}/)" in load_image_sets(image_folder).description

    def test_val_goes_before_test(self, image_folder):
        shutil.copytree(image_folder / "val", image_folder / "test")
        assert "(train/, val/)" in load_image_sets(image_folder).description

    @pytest.mark.parametrize(("side", "other"), [("train", "val"), ("val", "train")])
    def test_a_class_missing_on_one_side_is_named(self, image_folder, side, other):
        shutil.rmtree(image_folder / side / "dog")
        with pytest.raises(ValueError, match=rf"{side} lacks the classes dog, which the other side has"):
            load_image_sets(image_folder)

    def test_an_empty_class_is_named(self, image_folder):
        (image_folder / "val" / "emu").mkdir()
        (image_folder / "val" / "emu" / "notes.txt").write_text("no image")
        with pytest.raises(ValueError, match=r"class folders without images in .*val: emu"):
            load_image_sets(image_folder)

    def test_no_train(self, image_folder):
        shutil.rmtree(image_folder / "train")
        with pytest.raises(ValueError, match="has val/ but no train/"):
            load_image_sets(image_folder)

    def test_numbers_as_class_names_are_sorted_as_text(self, tmp_path):
        for side in ("train", "val"):
            make(tmp_path / side, *(f"{number}/a.png" for number in range(12)))
        assert load_image_sets(tmp_path).classes[:4] == ("0", "1", "10", "11")

    def test_disorder_does_no_harm(self, image_folder, caplog):
        cats = image_folder / "train" / "cat"
        (cats / "folder.jpg").mkdir()
        (cats / "broken.jpg").symlink_to("nowhere")
        (cats / ".hidden.jpg").write_bytes(b"")
        (cats / "Thumbs.db").write_bytes(b"x")
        make(cats, "nested/deeper/x.JPG")
        make(cats, "line\nbreak é .png", os.fsdecode(b"bytes\xff.png"))
        (cats / "up").symlink_to(image_folder / "train")
        (image_folder / "train" / "empty.jpg").mkdir()
        (image_folder / "train" / ".ipynb_checkpoints").mkdir()
        make(image_folder / "train", "loose.png")
        (image_folder / "README.txt").write_text("x")
        sets = load_image_sets(image_folder)
        assert sets.classes == ("cat", "dog", "fox")
        found = {os.path.relpath(name, cats) for name in names_of(sets.train) if name.startswith(str(cats))}
        assert found >= {"nested/deeper/x.JPG", "line\nbreak é .png", os.fsdecode(b"bytes\xff.png"), "0.jpg"}
        assert not [name for name in found if "broken" in name or ".hidden" in name]
        for index, name in enumerate(names_of(sets.train)):
            assert os.path.isfile(name)
            sets.train.load(index)
        assert "broken.jpg" in caplog.text and "1 images outside the class folders" in caplog.text

    def test_linked_class_folder(self, image_folder, tmp_path):
        for side in ("train", "val"):
            make(tmp_path / "elsewhere" / side, "1.png", "2.png")
            (image_folder / side / "gnu").symlink_to(tmp_path / "elsewhere" / side)
        assert load_image_sets(image_folder).classes == ("cat", "dog", "fox", "gnu")

    def test_val_fraction_without_effect_is_said(self, image_folder, caplog):
        load_image_sets(image_folder, val_fraction=0.3)
        assert "val_fraction 0.3 has no effect" in caplog.text


class TestOneFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        root = tmp_path / "pets"
        for name, count in (("cat", 20), ("dog", 10), ("eel", 2)):
            make(root / name, *(f"{number}.png" for number in range(count)))
        return root

    def test_split_is_stratified_seeded_and_stated(self, folder):
        sets = load_image_sets(folder, val_fraction=0.25, seed=3)
        assert np.bincount(sets.val.targets).tolist() == [5, 2, 1]
        assert np.bincount(sets.train.targets).tolist() == [15, 8, 1]
        assert sets.description == "pets: 24 train / 8 val images of 3 classes (25 % of each class held back, seed 3)"
        train, val = names_of(sets.train), names_of(sets.val)
        assert not set(train) & set(val) and len({*train, *val}) == 32
        again = load_image_sets(str(folder), val_fraction=0.25, seed=3)
        assert names_of(again.train) == train and names_of(again.val) == val
        assert names_of(load_image_sets(folder, val_fraction=0.25, seed=4).val) != val

    def test_train_folder_alone_is_split(self, folder):
        (folder / "train").mkdir()
        for name in ("cat", "dog", "eel"):
            (folder / name).rename(folder / "train" / name)
        assert load_image_sets(folder).classes == ("cat", "dog", "eel")

    def test_a_single_image_stays_in_training(self, folder, caplog):
        make(folder / "fox", "only.png")
        sets = load_image_sets(folder)
        assert sets.val.missing_classes == ("fox",) and not sets.train.missing_classes
        assert sets.val.classes == sets.train.classes
        assert "never validated: fox" in caplog.text

    def test_nothing_to_hold_back(self, tmp_path):
        make(tmp_path, "a/1.png", "b/1.png")
        with pytest.raises(ValueError, match=r"no class in .* has two images"):
            load_image_sets(tmp_path)

    def test_one_class(self, tmp_path):
        make(tmp_path, "a/1.png", "a/2.png")
        with pytest.raises(ValueError, match="has one class folder, a: two or more are needed"):
            load_image_sets(tmp_path)

    def test_no_class_folders(self, tmp_path):
        with pytest.raises(ValueError, match="holds no class folders"):
            load_image_sets(tmp_path)
        make(tmp_path, "1.png", "2.png")
        with pytest.raises(ValueError, match="holds 2 images but no class folders"):
            load_image_sets(tmp_path)

    def test_many_bad_classes_are_cut_short(self, tmp_path):
        for number in range(30):
            (tmp_path / f"class{number:02d}").mkdir()
        with pytest.raises(ValueError, match=r": class00, class01, class02, class03, class04 and 25 more$"):
            load_image_sets(tmp_path)

    @pytest.mark.parametrize("fraction", [0.0, 1.0, -1, float("nan")])
    def test_fraction_out_of_range(self, folder, fraction):
        with pytest.raises(ValueError, match="val_fraction is"):
            load_image_sets(folder, val_fraction=fraction)

    def test_no_folder(self, tmp_path):
        make(tmp_path, "a.png")
        for data, state in (
            (tmp_path / "a.png", "is a file"),
            (tmp_path / "b", "does not exist"),
            ("digit", "not exist"),
        ):
            for function in (load_image_sets, small_images):
                with pytest.raises(ValueError, match=state):
                    function(data)


class TestSplit:
    @pytest.mark.parametrize("seed", range(5))
    def test_properties(self, seed):
        random = np.random.default_rng(seed)
        targets = random.integers(0, 30, 400)
        fraction = random.uniform(0.01, 0.99)
        train, val = stratified_split(targets, fraction, seed)
        assert sorted([*train, *val]) == list(range(400))
        for label in np.unique(targets):
            count, held_back = (targets == label).sum(), (targets[val] == label).sum()
            assert count == 1 or 1 <= held_back <= count - 1
            assert abs(held_back - count * fraction) <= 1


class TestLabelled:
    def test_matched_by_name_not_by_position(self, image_folder):
        images = load_labelled_images(image_folder, ["fox", "wolf", "cat", "dog"])
        assert images.missing_classes == ("wolf",)
        assert len(images) == 12
        for index, name in enumerate(names_of(images)):
            assert Path(name).parent.name == images.classes[images.targets[index]]

    def test_sides_and_plain_folders(self, image_folder):
        classes = ("cat", "dog", "fox")
        assert len(load_labelled_images(image_folder, classes, split="train")) == 36
        assert len(load_labelled_images(image_folder / "train", classes)) == 36
        shutil.rmtree(image_folder / "val")
        with pytest.raises(ValueError, match="has train/ but none of val"):
            load_labelled_images(image_folder, classes)

    def test_a_missing_or_empty_class_is_reported_not_refused(self, image_folder):
        shutil.rmtree(image_folder / "val" / "cat")
        for path in (image_folder / "val" / "dog").iterdir():
            path.unlink()
        images = load_labelled_images(image_folder, ("cat", "dog", "fox"))
        assert images.missing_classes == ("cat", "dog") and set(images.targets) == {2}

    def test_unknown_classes_are_named(self, image_folder):
        with pytest.raises(ValueError, match="classes that the model does not know: cat, fox"):
            load_labelled_images(image_folder, ("dog", "emu"))

    def test_no_images(self, image_folder):
        for path in (image_folder / "val").glob("*/*"):
            path.unlink()
        with pytest.raises(ValueError, match="hold no images"):
            load_labelled_images(image_folder, ("cat", "dog", "fox"))

    def test_digits(self):
        images = load_labelled_images("digits", tuple("9876543210"))
        assert images.targets[0] == 9 - load_image_sets("digits").val.targets[0]


class TestDigits:
    def test_content(self):
        sets = load_image_sets("digits", seed=5)
        assert sets.description == "digits: 1,438 train / 359 val images of 10 classes (its own split)"
        assert sets.classes == tuple("0123456789")
        names = names_of(sets.train) + names_of(sets.val)
        assert sorted(names) == sorted(f"digits/{number}" for number in range(1797))
        image = sets.train.load(0)
        assert image.mode == "RGB" and image.size == (8, 8)
        assert max(np.asarray(sets.train.load(index)).max() for index in range(20)) == 255
        assert np.bincount(sets.val.targets).min() >= 34

    def test_the_same_digits_are_held_back_for_every_seed(self):
        assert names_of(load_image_sets("digits", seed=1).val) == names_of(load_image_sets("digits", seed=2).val)

    def test_a_folder_of_that_name_needs_a_path(self, image_folder, monkeypatch):
        image_folder.rename(image_folder.parent / "digits")
        monkeypatch.chdir(image_folder.parent)
        assert len(load_image_sets("digits").classes) == 10
        assert len(load_image_sets("./digits").classes) == 3


class FakeTorchvision:
    """Stands for the data sets whose files are not here: what torchvision gives once they are loaded."""

    calls: list[dict]

    def __init__(self, attributes):
        self.attributes, self.calls = attributes, []
        self.__name__ = "CIFAR10"

    def __call__(self, folder, **options):
        self.calls.append({"folder": folder, **options})
        if not options.get("download") and len(self.calls) == 1:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        return SimpleNamespace(**self.attributes)


class TestTorchvision:
    def test_no_network_is_one_sentence(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        for name in ("cifar10", "CIFAR10", "svhn"):
            with pytest.raises(ValueError, match=r"cannot be downloaded .* run torchvision.datasets") as caught:
                load_image_sets(f"torchvision/{name}")
            assert str(tmp_path / "datasets") in str(caught.value) and "\n" not in str(caught.value)

    def test_unknown_name_lists_the_known(self):
        for function in (load_image_sets, small_images):
            with pytest.raises(ValueError, match=r"torchvision/cifar11 is none of .* cifar10, cifar100"):
                function("torchvision/cifar11")

    @pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
    def test_arrays(self, tmp_path, monkeypatch, layout):
        pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
        data = {"NHWC": pixels, "NCHW": pixels.transpose(0, 3, 1, 2), "NHW": torch.tensor(pixels[..., 0])}[layout]
        labels = {"labels" if layout == "NCHW" else "targets": np.array([0, 1, 2, 0, 1, 2])}
        fake = FakeTorchvision({"data": data, **labels, **({} if layout == "NCHW" else {"classes": ["x", "y", "z"]})})
        monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        sets = load_image_sets("torchvision/cifar10")
        assert [call.get("download", False) for call in fake.calls] == [False, True, False]
        assert [call["train"] for call in fake.calls] == [True, True, False]
        assert sets.classes == (("0", "1", "2") if layout == "NCHW" else ("x", "y", "z"))
        expected = pixels[4] if layout != "NHW" else np.repeat(pixels[4, :, :, :1], 3, axis=2)
        np.testing.assert_array_equal(np.asarray(sets.train.load(4)), expected)
        assert sets.description == "torchvision/cifar10: 6 train / 6 val images of 3 classes (its own split)"

    @pytest.mark.parametrize("attribute", ["_images", "_image_files"])
    def test_files_go_through_the_one_decoder(self, image_folder, monkeypatch, attribute):
        path = image_folder / "train" / "cat" / "0.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (20, 10)).save(path, exif=exif)
        fake = FakeTorchvision({attribute: [path], "_labels": [0], "classes": ["cat"]})
        monkeypatch.setattr(torchvision.datasets, "Food101", fake)
        images = load_image_sets("torchvision/food101").train
        assert images.load(0).size == (10, 20) and images.name(0) == str(path)

    def test_names_exist_in_torchvision(self):
        from rexnet.data.named_sets import _TORCHVISION_SETS

        for row in _TORCHVISION_SETS.values():
            assert hasattr(torchvision.datasets, row.class_name)


class TestImageSet:
    def test_paths_take_no_object_each(self):
        paths = [f"/data/class{number % 10}/image_{number:07d}.jpg" for number in range(20_000)]
        images = FileImages(paths, np.zeros(len(paths)), ("a",))
        assert [images.name(index) for index in (0, 1, 19_999)] == [paths[0], paths[1], paths[-1]]
        assert not [v for v in vars(images).values() if isinstance(v, list | dict)]
        assert len(pickle.dumps(images)) < 20_000 * (sys.getsizeof(paths[0]) + 8)

    def test_pickles(self):
        array = ArrayImages(
            np.zeros((2, 4, 4), np.uint8), np.array([1, 0]), ("a", "b"), label="x", numbers=np.array([7, 9])
        )
        assert pickle.loads(pickle.dumps(array)).name(1) == "x/9"

    def test_renumbering_leaves_the_original(self):
        images = FileImages(["a", "b"], [0, 1], ("a", "b"))
        assert images.with_classes(("b", "c", "a")).targets.tolist() == [2, 0]
        assert images.targets.tolist() == [0, 1] and images.classes == ("a", "b")


class TestSmallImages:
    def test_headers_decide(self, tmp_path):
        assert not small_images(tmp_path)
        make(tmp_path / "a", *(f"{number}.png" for number in range(40)), size=(64, 48))
        assert small_images(tmp_path)
        (tmp_path / "a" / "bad.png").write_bytes(b"no image")
        assert small_images(tmp_path)
        make(tmp_path / "b", *(f"{number}.png" for number in range(60)), size=(65, 48))
        assert not small_images(tmp_path)

    def test_named_sets(self):
        assert small_images("digits") and small_images("torchvision/cifar10")
        assert not small_images("torchvision/food101")


class TestSharedData:
    def test_flowers17(self, shared_data, tmp_path):
        with tarfile.open(shared_data / "flowers17.tar") as archive:
            archive.extractall(tmp_path / "flowers17", filter="data")
        sets = load_image_sets(tmp_path / "flowers17")
        assert sets.description == "flowers17: 1,067 train / 272 val images of 17 classes (train/, test/)"
        assert np.bincount(sets.val.targets).tolist() == [16] * 17
        assert not small_images(tmp_path / "flowers17")
        for index in range(0, len(sets.train), 100):
            assert max(sets.train.load(index).size) <= 320
