import logging
import shutil

import numpy as np
import pytest

from rexnet.data.datasets import open_dataset
from rexnet.data.image_set import FileImages
from rexnet.data.splits import DrawnSplit, fingerprint
from tests.tars import LETTERS, foreign, names_of

CLASSES = ("cat", "dog", "fox")


@pytest.fixture
def plain(image_folder):
    """A folder of class folders, 12 images each."""
    return image_folder / "train"


class TestFingerprint:
    def test_the_folder_that_all_names_begin_with_does_not_count(self):
        here = FileImages(["a/b/cat/0.jpg", "a/b/caterpillar/0.jpg"], [0, 1], ("cat", "caterpillar"))
        there = FileImages(["./x//y/cat/0.jpg", "./x//y/caterpillar/0.jpg"], [0, 1], ("cat", "caterpillar"))
        bare = FileImages(["cat/0.jpg", "caterpillar/0.jpg"], [0, 1], ("cat", "caterpillar"))
        assert fingerprint(here) == fingerprint(there) == fingerprint(bare)

    def test_order_and_numbering_do_not_count(self):
        images = FileImages(["d/cat/0", "d/cat/1", "d/dog/0"], [0, 0, 1], ("cat", "dog"))
        other = images.with_classes(("dog", "emu", "cat")).subset(np.array([2, 0, 1]))
        assert fingerprint(images) == fingerprint(other)

    @pytest.mark.parametrize(
        ("paths", "targets", "classes"),
        [
            (["d/cat/0", "d/dog/0"], [0, 1], ("cat", "dog")),
            (["d/cat/0", "d/cat/2", "d/dog/0"], [0, 0, 1], ("cat", "dog")),
            (["d/cat/0", "d/cat/1", "d/dog/0"], [0, 1, 1], ("cat", "dog")),
            (["d/cat/0", "d/cat/1", "d/dog/0"], [0, 0, 1], ("cat", "hen")),
        ],
        ids=["gone", "renamed", "moved to another class", "class renamed"],
    )
    def test_any_other_set_has_another(self, paths, targets, classes):
        images = FileImages(["d/cat/0", "d/cat/1", "d/dog/0"], [0, 0, 1], ("cat", "dog"))
        assert fingerprint(FileImages(paths, targets, classes)) != fingerprint(images)

    def test_names_outside_unicode(self):
        assert len(fingerprint(FileImages(["d/a/\udce9.jpg", "d/b/狐.jpg"], [0, 1], ("a", "b\udce9")))) == 64


class TestDescription:
    def test_survives_plain_values(self):
        split = DrawnSplit(val_fraction=0.25, seed=3, fingerprint="f")
        assert DrawnSplit.from_dict(split.to_dict()) == split
        assert split.words == "25 % of each class held back, seed 3"

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            {"val_fraction": 0.2, "seed": 0},
            {"val_fraction": 1.0, "seed": 0, "fingerprint": ""},
            {"val_fraction": "0.2", "seed": 0, "fingerprint": ""},
            {"val_fraction": 0.2, "seed": -1, "fingerprint": ""},
            [],
        ],
    )
    def test_anything_else_is_one_sentence(self, wrong):
        with pytest.raises(ValueError, match="split"):
            DrawnSplit.from_dict(wrong)


class TestRepeated:
    def test_only_drawn_splits_are_noted(self, image_folder, plain):
        assert (
            open_dataset(image_folder).for_training().drawn is None
            and open_dataset("digits").for_training().drawn is None
        )
        drawn = open_dataset(plain).for_training(seed=7).drawn
        assert drawn and (drawn.val_fraction, drawn.seed) == (0.2, 7)

    @pytest.mark.parametrize("shots", [None, 2])
    def test_both_sides_come_back_where_the_folder_was_moved(self, plain, tmp_path, caplog, shots):
        caplog.set_level(logging.INFO)
        sets = open_dataset(plain).for_training(val_fraction=0.3, seed=5, shots=shots)
        all_of_it = open_dataset(plain).for_training(val_fraction=0.3, seed=5)
        moved = plain.rename(tmp_path / "moved")
        expected = {"val": sets.val, "train": all_of_it.train}
        for split, images in expected.items():
            found = open_dataset(moved).for_measuring(("fox", "emu", "dog", "cat"), split=split, drawn=sets.drawn)
            assert {name.removeprefix(str(moved)) for name in names_of(found)} == {
                name.removeprefix(str(plain)) for name in names_of(images)
            }
        repeated = f"split of the training is repeated: {len(sets.val)} of 36 images"
        assert repeated in caplog.text and "no split of its own" not in caplog.text

    def test_of_a_folder_with_train_alone(self, image_folder, plain):
        shutil.rmtree(image_folder / "val")
        sets = open_dataset(image_folder).for_training()
        for folder in (image_folder, plain):
            found = open_dataset(folder).for_measuring(CLASSES, drawn=sets.drawn)
            assert names_of(found) == names_of(sets.val)
        (plain / "cat" / "0.jpg").unlink()
        with pytest.raises(ValueError, match="has train/ but none of val"):
            open_dataset(image_folder).for_measuring(CLASSES, drawn=sets.drawn)
        assert len(open_dataset(image_folder).for_measuring(CLASSES, split="train", drawn=sets.drawn)) == 35

    def test_changed_data_is_taken_whole_and_that_is_said(self, plain, caplog):
        drawn = open_dataset(plain).for_training().drawn
        (plain / "cat" / "0.jpg").rename(plain / "cat" / "zero.jpg")
        assert len(open_dataset(plain).for_measuring(CLASSES, drawn=drawn)) == 36
        assert "all of it is measured" in caplog.text

    def test_of_tars(self, tmp_path, caplog):
        root = foreign(tmp_path / "set", count=20)
        shutil.rmtree(root / "val")
        sets = open_dataset(root).for_training(val_fraction=0.3, seed=2, shots=4)
        assert len(sets.val) == 6 and np.bincount(sets.train.targets).tolist() == [4, 4]
        moved = root.rename(tmp_path / "moved")
        found = open_dataset(moved).for_measuring(LETTERS, drawn=sets.drawn)
        assert names_of(found) == names_of(sets.val) and not caplog.text
        assert len(open_dataset(moved).for_measuring(LETTERS)) == 20 and "all of it is measured" in caplog.text

    def test_data_with_a_split_of_its_own_keeps_that(self, image_folder, plain):
        drawn = open_dataset(plain).for_training().drawn
        assert len(open_dataset(image_folder).for_measuring(CLASSES, split="train", drawn=drawn)) == 36
        assert len(open_dataset(image_folder).for_measuring(CLASSES, drawn=drawn)) == 12
