import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rexnet.data.checks.images import CheckConfig, check
from rexnet.data.datasets import Dataset, open_dataset
from rexnet.data.datasets.folder import find_class_folders, find_images_beside
from rexnet.errors import BadImageError
from tests.tars import names_of


def make(root: Path, *names: str, size: tuple[int, int] = (9, 7)) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number % 256, number // 256, 77)).save(path)
    return root


class TestTwoFolders:
    def test_splits_and_classes_are_found(self, image_folder):
        sets = open_dataset(image_folder).for_training()
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
        assert f"(train/, {name}/)" in open_dataset(image_folder).for_training().description

    def test_val_goes_before_test_and_a_second_one_is_reported(self, image_folder, caplog):
        shutil.copytree(image_folder / "val", image_folder / "test")
        assert "(train/, val/)" in open_dataset(image_folder).for_training().description
        assert "not used" not in caplog.text
        shutil.copytree(image_folder / "val", image_folder / "valid")
        assert "(train/, val/)" in open_dataset(image_folder).for_training().description
        assert "the images of valid are not used, because there is train/, val/, test/" in caplog.text

    @pytest.mark.parametrize(("side", "other"), [("train", "val"), ("val", "train")])
    def test_a_class_missing_in_one_split_is_named(self, image_folder, side, other):
        shutil.rmtree(image_folder / side / "dog")
        with pytest.raises(ValueError, match=rf"{side} has no images of the class dog, which .*{other} has"):
            open_dataset(image_folder).for_training()

    def test_a_class_without_validation_images_is_trained_when_that_is_allowed(self, image_folder, caplog):
        for name in ("dog", "fox"):
            shutil.rmtree(image_folder / "val" / name)
        (image_folder / "val" / "fox").mkdir()
        sets = open_dataset(image_folder).for_training(missing_class="skip")
        assert sets.classes == ("cat", "dog", "fox") and len(sets.train) == 36 and set(sets.val.targets) == {0}
        assert sets.val.missing_classes == ("dog", "fox") and "dog, fox" in caplog.text
        shutil.rmtree(image_folder / "train" / "cat")
        with pytest.raises(ValueError, match="train has no images of the class cat"):
            open_dataset(image_folder).for_training(missing_class="skip")

    def test_an_empty_class_is_named(self, image_folder):
        (image_folder / "val" / "emu").mkdir()
        (image_folder / "val" / "emu" / "notes.txt").write_text("no image")
        with pytest.raises(ValueError, match=r"val has no images of the class emu; put images there"):
            open_dataset(image_folder).for_training()

    def test_no_train(self, image_folder):
        shutil.rmtree(image_folder / "train")
        with pytest.raises(ValueError, match="has val/ but no train/"):
            open_dataset(image_folder).for_training()

    def test_numbers_as_class_names_are_sorted_as_text(self, tmp_path):
        for side in ("train", "val"):
            make(tmp_path / side, *(f"{number}/a.png" for number in range(12)))
        assert open_dataset(tmp_path).for_training().classes[:4] == ("0", "1", "10", "11")

    def test_unrelated_files_are_ignored(self, image_folder, caplog):
        cats = image_folder / "train" / "cat"
        (cats / "folder.jpg").mkdir()
        (cats / ".hidden.jpg").write_bytes(b"")
        (cats / "Thumbs.db").write_bytes(b"x")
        make(cats, "nested/deeper/x.JPG")
        make(cats, "line\nbreak é .png", os.fsdecode(b"bytes\xff.png"))
        (cats / "up").symlink_to(image_folder / "train")
        (image_folder / "train" / "empty.jpg").mkdir()
        (image_folder / "train" / ".ipynb_checkpoints").mkdir()
        make(image_folder / "train", "loose.png")
        (image_folder / "README.txt").write_text("x")
        sets = open_dataset(image_folder).for_training()
        assert sets.classes == ("cat", "dog", "fox")
        found = {os.path.relpath(name, cats) for name in names_of(sets.train) if name.startswith(str(cats))}
        assert found >= {"nested/deeper/x.JPG", "line\nbreak é .png", os.fsdecode(b"bytes\xff.png"), "0.jpg"}
        assert not [name for name in found if ".hidden" in name]
        for index, name in enumerate(names_of(sets.train)):
            assert os.path.isfile(name)
            sets.train.load(index)
        assert "1 image outside the class folders is skipped" in caplog.text

    def test_broken_links(self, image_folder):
        broken = image_folder / "train" / "cat" / "broken.jpg"
        broken.symlink_to("nowhere")
        train = open_dataset(image_folder).for_training().train
        with pytest.raises(BadImageError, match="a link to a file that does not exist"):
            train.load(names_of(train).index(str(broken)))
        (image_folder / "train" / "gnu").symlink_to("nowhere")
        with pytest.raises(ValueError, match="gnu, a link to a folder that does not exist"):
            open_dataset(image_folder).for_training()

    def test_linked_class_folder(self, image_folder, tmp_path):
        for side in ("train", "val"):
            make(tmp_path / "elsewhere" / side, "1.png", "2.png")
            (image_folder / side / "gnu").symlink_to(tmp_path / "elsewhere" / side)
        assert open_dataset(image_folder).for_training().classes == ("cat", "dog", "fox", "gnu")

    def test_val_fraction_without_effect_is_logged(self, image_folder, caplog):
        open_dataset(image_folder).for_training(val_fraction=0.3)
        assert "val_fraction 0.3 has no effect" in caplog.text


class TestOneFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        root = tmp_path / "pets"
        for name, count in (("cat", 20), ("dog", 10), ("eel", 2)):
            make(root / name, *(f"{number}.png" for number in range(count)))
        return root

    def test_split_is_stratified_seeded_and_logged(self, folder):
        sets = open_dataset(folder).for_training(val_fraction=0.25, seed=3)
        assert np.bincount(sets.val.targets).tolist() == [5, 2, 1]
        assert np.bincount(sets.train.targets).tolist() == [15, 8, 1]
        assert (
            sets.description == "pets: 24 train / 8 val images of 3 classes (25 % of each class for validation, seed 3)"
        )
        train, val = names_of(sets.train), names_of(sets.val)
        assert not set(train) & set(val) and len({*train, *val}) == 32
        again = open_dataset(str(folder)).for_training(val_fraction=0.25, seed=3)
        assert names_of(again.train) == train and names_of(again.val) == val
        assert names_of(open_dataset(folder).for_training(val_fraction=0.25, seed=4).val) != val

    def test_train_folder_alone_is_split(self, folder):
        (folder / "train").mkdir()
        for name in ("cat", "dog", "eel"):
            (folder / name).rename(folder / "train" / name)
        assert open_dataset(folder).for_training().classes == ("cat", "dog", "eel")

    def test_a_single_image_stays_in_training(self, folder, caplog):
        make(folder / "fox", "only.png")
        sets = open_dataset(folder).for_training()
        assert sets.val.missing_classes == ("fox",) and not sets.train.missing_classes
        assert sets.val.classes == sets.train.classes
        assert "never validated: fox" in caplog.text

    def test_no_image_to_validate_on(self, tmp_path):
        make(tmp_path, "a/1.png", "b/1.png")
        with pytest.raises(ValueError, match=r"no class in .* has two images"):
            open_dataset(tmp_path).for_training()

    def test_one_class(self, tmp_path):
        make(tmp_path, "a/1.png", "a/2.png")
        with pytest.raises(ValueError, match="has one class, a: two or more are needed"):
            open_dataset(tmp_path).for_training()

    def test_classes_one_level_too_deep(self, tmp_path, caplog):
        make(tmp_path, *(f"all/{name}/{number}.png" for name in ("cat", "dog") for number in range(3)))
        with pytest.raises(ValueError, match=r"one class, all: .* if cat, dog in .*/all are the classes, move them"):
            open_dataset(tmp_path).for_training()
        make(tmp_path, "more/cat/1.png", "more/cat/2.png")
        assert open_dataset(tmp_path).for_training().classes == ("all", "more")
        assert "sub-folders of each count as one class: all (cat, dog)" in caplog.text

    def test_folders_inside_a_class_cause_no_warning(self, tmp_path, caplog):
        make(tmp_path, *(f"{name}/images/{number}.png" for name in ("cat", "dog") for number in range(3)))
        open_dataset(tmp_path).for_training()
        make(tmp_path, "dog/1.png", "cat/more/1.png")
        open_dataset(tmp_path).for_training()
        assert not caplog.records

    def test_no_class_folders(self, tmp_path):
        with pytest.raises(ValueError, match="contains no class folders"):
            open_dataset(tmp_path).for_training()
        make(tmp_path, "1.png", "2.png")
        with pytest.raises(ValueError, match="contains 2 images but no class folders"):
            open_dataset(tmp_path).for_training()

    def test_a_long_list_of_bad_classes_is_shortened(self, tmp_path):
        for number in range(30):
            (tmp_path / f"class{number:02d}").mkdir()
        with pytest.raises(ValueError, match=r" class00, class01, class02, class03, class04 and 25 more;"):
            open_dataset(tmp_path).for_training()

    @pytest.mark.parametrize("fraction", [0.0, 1.0, -1, float("nan")])
    def test_fraction_out_of_range(self, folder, fraction):
        with pytest.raises(ValueError, match="val_fraction is"):
            open_dataset(folder).for_training(val_fraction=fraction)

    def test_no_folder(self, tmp_path):
        make(tmp_path, "a.png")
        for data, state in (
            (tmp_path / "a.png", "is a file"),
            (tmp_path / "b", "does not exist"),
            ("digit", "not exist"),
        ):
            for function in (Dataset.for_training, lambda dataset: dataset.small_images):
                with pytest.raises(ValueError, match=state):
                    function(open_dataset(data))


class TestLabelled:
    def test_matched_by_name_not_by_position(self, image_folder):
        images = open_dataset(image_folder).for_measuring(["fox", "wolf", "cat", "dog"])
        assert images.missing_classes == ("wolf",)
        assert len(images) == 12
        for index, name in enumerate(names_of(images)):
            assert Path(name).parent.name == images.classes[images.targets[index]]

    def test_splits_and_plain_folders(self, image_folder):
        classes = ("cat", "dog", "fox")
        assert len(open_dataset(image_folder).for_measuring(classes, split="train")) == 36
        assert len(open_dataset(image_folder / "train").for_measuring(classes)) == 36
        shutil.rmtree(image_folder / "val")
        with pytest.raises(ValueError, match="has train/ but none of val"):
            open_dataset(image_folder).for_measuring(classes)

    def test_a_missing_or_empty_class_is_reported_not_refused(self, image_folder):
        shutil.rmtree(image_folder / "val" / "cat")
        for path in (image_folder / "val" / "dog").iterdir():
            path.unlink()
        images = open_dataset(image_folder).for_measuring(("cat", "dog", "fox"))
        assert images.missing_classes == ("cat", "dog") and set(images.targets) == {2}

    def test_unknown_classes_are_named(self, image_folder):
        with pytest.raises(ValueError, match="classes that the model does not know: cat, fox"):
            open_dataset(image_folder).for_measuring(("dog", "emu"))

    def test_no_images(self, image_folder):
        for path in (image_folder / "val").glob("*/*"):
            path.unlink()
        with pytest.raises(ValueError, match="no images"):
            open_dataset(image_folder).for_measuring(("cat", "dog", "fox"))

    def test_digits(self):
        images = open_dataset("digits").for_measuring(tuple("9876543210"))
        assert images.targets[0] == 9 - open_dataset("digits").for_training().val.targets[0]


class TestSmallImages:
    def test_headers_decide(self, tmp_path):
        assert not open_dataset(tmp_path).small_images
        make(tmp_path / "a", *(f"{number}.png" for number in range(40)), size=(64, 48))
        assert open_dataset(tmp_path).small_images
        (tmp_path / "a" / "bad.png").write_bytes(b"no image")
        assert open_dataset(tmp_path).small_images
        make(tmp_path / "b", *(f"{number}.png" for number in range(60)), size=(65, 48))
        assert not open_dataset(tmp_path).small_images

    def test_named_sets(self):
        assert open_dataset("digits").small_images and open_dataset("torchvision/cifar10").small_images
        assert not open_dataset("torchvision/food101").small_images


class TestSharedData:
    def test_flowers17(self, shared_data, tmp_path):
        with tarfile.open(shared_data / "flowers17.tar") as archive:
            archive.extractall(tmp_path / "flowers17", filter="data")
        sets = open_dataset(tmp_path / "flowers17").for_training()
        assert sets.description == "flowers17: 1,067 train / 272 val images of 17 classes (train/, test/)"
        assert np.bincount(sets.val.targets).tolist() == [16] * 17
        assert not open_dataset(tmp_path / "flowers17").small_images
        for index in range(0, len(sets.train), 100):
            assert max(sets.train.load(index).size) <= 320


class TestNesting:
    """Folders above the classes: the message names the very folder, however deep."""

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_one_class(self, tmp_path, depth):
        place = tmp_path.joinpath(*"abc"[:depth])
        make(place, *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(2)))
        with pytest.raises(ValueError, match=f"one class, a: .*if cat, dog in {place} are the classes, move them into"):
            open_dataset(tmp_path).for_training()

    def test_splits_below_one_folder(self, tmp_path):
        make(tmp_path / "a" / "b", *(f"{split}/{name}/1.png" for split in ("train", "val") for name in ("cat", "dog")))
        with pytest.raises(ValueError, match=f"give {tmp_path / 'a' / 'b'}, which has train, val"):
            open_dataset(tmp_path).for_training()


def test_formats_that_cannot_be_read_are_counted(tmp_path, caplog):
    make(tmp_path, *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(2)))
    for name in ("cat/x.heic", "cat/deep/y.HEIC", "dog/0.heic", "z.nef"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    sets = open_dataset(tmp_path).for_training()
    assert len(sets.train) + len(sets.val) == 4
    assert caplog.text.count("2 .heic, 1 .nef files cannot be read and will not be used; convert to JPEG or PNG") == 1


@pytest.mark.parametrize("place", ["demo", "runs/demo"])
def test_run_folders_among_the_class_folders_are_not_classes(tmp_path, place, caplog):
    make(tmp_path, *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(2)))
    make(tmp_path / place, "curves.png", "samples/cat-0.png")
    (tmp_path / place / "config.json").write_text('{"network": {}}')
    sets = open_dataset(tmp_path).for_training()
    assert sets.train.classes == ("cat", "dog") and len(sets.train) + len(sets.val) == 4
    assert f"not read as a class, because it is a run folder of rexnet train: {place.partition('/')[0]}" in caplog.text
    (tmp_path / place / "config.json").write_text("{}")
    assert len(find_class_folders(str(tmp_path)).by_class) == 3, "another program's config.json"


def test_runs_beside_the_splits_are_not_images(image_folder):
    make(image_folder / "runs" / "demo", "curves.png")
    (image_folder / "runs" / "demo" / "config.json").write_text('{"network": {}}')
    assert find_images_beside(str(image_folder), ["train", "val"]) == []


@pytest.mark.parametrize("splits", [("Train", "Val"), ("TRAIN", "TEST"), ("training", "testing")])
def test_splits_in_other_spellings_are_not_classes(tmp_path, splits):
    make(tmp_path, *(f"{split}/{name}/{n}.png" for split in splits for name in ("cat", "dog") for n in range(2)))
    with pytest.raises(ValueError, match=f"{splits[0]}.* are splits, not classes; rename them to train and val"):
        open_dataset(tmp_path).for_training()


def test_a_class_called_train(tmp_path):
    make(tmp_path, *(f"{name}/{number}.png" for name in ("Train", "Bus") for number in range(2)))
    assert open_dataset(tmp_path).for_training().classes == ("Bus", "Train")


def test_images_beside_the_splits_are_named(tmp_path, caplog):
    make(
        tmp_path, *(f"{split}/{name}/{n}.png" for split in ("train", "val", "more") for name in "ab" for n in range(2))
    )
    make(tmp_path, "x.png", "docs/readme.png", "__MACOSX/y.png")
    (tmp_path / "empty").mkdir()
    sets = open_dataset(tmp_path).for_training()
    assert len(sets.train) + len(sets.val) == 8
    assert "the images of docs, more, x.png are not used, because there is train/, val/" in caplog.text
    report = check(CheckConfig(data=str(tmp_path), workers=0))
    beside = {os.path.relpath(path, tmp_path) for path in report.outside_classes}
    assert beside == {"x.png", "docs/readme.png", *(f"more/{name}/{n}.png" for name in "ab" for n in range(2))}
