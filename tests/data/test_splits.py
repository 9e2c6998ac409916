import logging
import shutil
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import open_dataset
from rexnet.data.image_set import ArrayImages, FileImages
from rexnet.data.loaders import TrainBatches
from rexnet.data.preprocess import Preprocess
from rexnet.data.splits import RandomSplit, balanced_draws, class_weights, draw_shots, fingerprint
from rexnet.data.transforms import TrainTransform
from tests.drawings import draw_folder
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
    def test_any_other_set_has_another_fingerprint(self, paths, targets, classes):
        images = FileImages(["d/cat/0", "d/cat/1", "d/dog/0"], [0, 0, 1], ("cat", "dog"))
        assert fingerprint(FileImages(paths, targets, classes)) != fingerprint(images)

    def test_names_outside_unicode(self):
        assert len(fingerprint(FileImages(["d/a/\udce9.jpg", "d/b/狐.jpg"], [0, 1], ("a", "b\udce9")))) == 64


class TestDescription:
    def test_survives_plain_values(self):
        split = RandomSplit(val_fraction=0.25, seed=3, fingerprint="f")
        assert RandomSplit.from_dict(split.to_dict()) == split
        assert split.description == "25 % of each class for validation, seed 3"

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
    def test_anything_else_is_refused_in_one_sentence(self, wrong):
        with pytest.raises(ValueError, match="split"):
            RandomSplit.from_dict(wrong)


class TestRepeated:
    def test_only_random_splits_are_recorded(self, image_folder, plain):
        assert (
            open_dataset(image_folder).for_training().random_split is None
            and open_dataset("digits").for_training().random_split is None
        )
        drawn = open_dataset(plain).for_training(seed=7).random_split
        assert drawn and (drawn.val_fraction, drawn.seed) == (0.2, 7)

    @pytest.mark.parametrize("shots", [None, 2])
    def test_both_splits_are_the_same_after_moving_the_folder(self, plain, tmp_path, caplog, shots):
        caplog.set_level(logging.INFO)
        sets = open_dataset(plain).for_training(val_fraction=0.3, seed=5, shots=shots)
        all_of_it = open_dataset(plain).for_training(val_fraction=0.3, seed=5)
        moved = plain.rename(tmp_path / "moved")
        expected = {"val": sets.val, "train": all_of_it.train}
        for split, images in expected.items():
            found = open_dataset(moved).for_measuring(
                ("fox", "emu", "dog", "cat"), split=split, random_split=sets.random_split
            )
            assert {name.removeprefix(str(moved)) for name in names_of(found)} == {
                name.removeprefix(str(plain)) for name in names_of(images)
            }
        repeated = f"split of the training run is used again: {len(sets.val)} of 36 images"
        assert repeated in caplog.text and "has no splits" not in caplog.text

    def test_of_a_folder_with_train_alone(self, image_folder, plain):
        shutil.rmtree(image_folder / "val")
        sets = open_dataset(image_folder).for_training()
        for folder in (image_folder, plain):
            found = open_dataset(folder).for_measuring(CLASSES, random_split=sets.random_split)
            assert names_of(found) == names_of(sets.val)
        (plain / "cat" / "0.jpg").unlink()
        with pytest.raises(ValueError, match="has train/ but none of val"):
            open_dataset(image_folder).for_measuring(CLASSES, random_split=sets.random_split)
        assert (
            len(open_dataset(image_folder).for_measuring(CLASSES, split="train", random_split=sets.random_split)) == 35
        )

    def test_changed_data_is_used_completely_with_a_warning(self, plain, caplog):
        drawn = open_dataset(plain).for_training().random_split
        (plain / "cat" / "0.jpg").rename(plain / "cat" / "zero.jpg")
        assert len(open_dataset(plain).for_measuring(CLASSES, random_split=drawn)) == 36
        assert "all of it is evaluated" in caplog.text

    def test_of_tars(self, tmp_path, caplog):
        root = foreign(tmp_path / "set", count=20)
        shutil.rmtree(root / "val")
        sets = open_dataset(root).for_training(val_fraction=0.3, seed=2, shots=4)
        assert len(sets.val) == 6 and np.bincount(sets.train.targets).tolist() == [4, 4]
        moved = root.rename(tmp_path / "moved")
        found = open_dataset(moved).for_measuring(LETTERS, random_split=sets.random_split)
        assert names_of(found) == names_of(sets.val) and not caplog.text
        assert len(open_dataset(moved).for_measuring(LETTERS)) == 20 and "all of it is evaluated" in caplog.text

    def test_data_with_its_own_split_keeps_it(self, image_folder, plain):
        drawn = open_dataset(plain).for_training().random_split
        assert len(open_dataset(image_folder).for_measuring(CLASSES, split="train", random_split=drawn)) == 36
        assert len(open_dataset(image_folder).for_measuring(CLASSES, random_split=drawn)) == 12


TRANSFORM = TrainTransform(Preprocess(image_size_px=16, crop_ratio=1.0), AugmentConfig(random_erasing=0.5))


def gray(targets: np.ndarray, classes: int = 3) -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, (len(targets), 12, 10, 3), dtype=np.uint8)
    names = tuple(map(str, range(classes)))
    return ArrayImages(pixels, targets, names, label="noise", numbers=np.arange(len(targets)))


class TestWeights:
    def test_golden(self):
        weights = class_weights(np.array([0] * 95 + [1] * 5), 2)
        assert weights.tolist() == pytest.approx([100 / (2 * 95), 100 / (2 * 5)])

    def test_equal_scikit_learns_and_mean_one_over_images(self):
        targets = np.random.default_rng(1).zipf(1.5, 500).clip(1, 20) - 1
        present = np.unique(targets)
        expected = compute_class_weight("balanced", classes=present, y=targets)
        weights = class_weights(targets, 25)
        assert weights[present] == pytest.approx(expected) and weights[targets].mean() == pytest.approx(1.0)
        assert weights.sum() == pytest.approx(expected.sum()), "classes without images weigh nothing"


class TestDraws:
    @pytest.mark.parametrize("counts", [[95, 5], [1, 1, 1], [1, 50, 7], [3, 0, 9, 2], [1000, 1]])
    def test_classes_and_their_images_are_drawn_equally_often(self, counts):
        targets = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
        draws = balanced_draws(targets, np.random.default_rng(5))
        assert len(draws) == len(targets) == len(set(draws.tolist()))
        positions = draws % len(targets)
        per_class = np.bincount(targets[positions], minlength=len(counts))[np.array(counts) > 0]
        assert per_class.max() - per_class.min() <= 1
        for label in np.unique(targets):
            times = np.bincount(positions, minlength=len(targets))[targets == label]
            assert times.max() - times.min() <= 1
        # The n-th time of an image is marked as that.
        seen = Counter()
        for position, times_before in sorted(zip(positions.tolist(), (draws // len(targets)).tolist(), strict=True)):
            assert times_before == seen[position]
            seen[position] += 1

    def test_equal_classes_are_a_permutation(self):
        draws = balanced_draws(np.arange(12) % 3, np.random.default_rng(0))
        assert sorted(draws.tolist()) == list(range(12))


class TestBatches:
    IMAGES = gray(np.array([0] * 40 + [1] * 5 + [2] * 2))

    def batches(self, **options) -> TrainBatches:
        return TrainBatches(self.IMAGES, TRANSFORM, **{"batch_size": 4, "seed": 3, "balanced": True, **options})

    def drawn(self, epoch: int = 0, **options) -> list[int]:
        return list(chain.from_iterable(batch.indices.tolist() for batch in self.batches(**options).epoch(epoch)))

    def test_an_epoch_has_as_many_images_and_even_classes(self):
        drawn = self.drawn()
        assert len(drawn) == 47 and sorted(np.bincount(self.IMAGES.targets[drawn])) == [15, 16, 16]
        assert drawn == self.drawn() != self.drawn(1) and drawn != self.drawn(seed=4)

    def test_targets_belong_to_the_images(self):
        for batch in self.batches().epoch(0):
            assert batch.targets.tolist() == self.IMAGES.targets[batch.indices].tolist()

    @pytest.mark.parametrize("world_size", [2, 3])
    def test_ranks_together_draw_the_images_of_one_process(self, world_size):
        ranks = [self.drawn(2, rank=rank, world_size=world_size) for rank in range(world_size)]
        whole = self.drawn(2)[: 47 // world_size * world_size]
        assert [index for together in zip(*ranks, strict=True) for index in together] == whole

    def test_resuming_and_workers_change_nothing(self):
        whole = list(self.batches().epoch(1))
        for rest in (list(self.batches().epoch(1, start_step=5)), list(self.batches(workers=1).epoch(1))[5:]):
            assert len(rest) == len(whole) - 5
            for one, other in zip(whole[5:], rest, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    def test_a_repeated_image_is_augmented_differently(self):
        views: dict[int, list[torch.Tensor]] = {}
        for batch in self.batches().epoch(0):
            for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
                views.setdefault(index, []).append(image)
        for index in (45, 46):
            assert len(views[index]) >= 7
            assert len({tuple(view.flatten().tolist()) for view in views[index]}) == len(views[index])


class TestShots:
    def test_smaller_subsets_are_part_of_larger_ones_and_classes_are_equal(self):
        images = gray(np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [30, 12, 9])))
        before = set[str]()
        for shots in (1, 2, 5, 9):
            few = draw_shots(images, shots, seed=4)
            assert np.bincount(few.targets).tolist() == [shots] * 3 and before < set(names_of(few))
            for index in range(len(few)):
                number = int(few.name(index).rpartition("/")[2])
                assert images.targets[number] == few.targets[index]
                assert few.load(index).tobytes() == images.load(number).tobytes()
            before = set(names_of(few))
        assert names_of(draw_shots(images, 5, seed=4)) != names_of(draw_shots(images, 5, seed=5))

    def test_a_class_with_fewer_keeps_them_and_is_named(self, caplog):
        few = draw_shots(gray(np.array([0, 0, 0, 1, 2, 2])), 2, seed=0)
        assert np.bincount(few.targets).tolist() == [2, 1, 2]
        assert "fewer than 2 images keep all of them: 1 (1)" in caplog.text

    @pytest.mark.parametrize("sides", [("train", "val"), ("train",)])
    def test_only_the_training_split_shrinks(self, image_folder, tmp_path, sides):
        folder = image_folder if len(sides) == 2 else image_folder / "train"
        all_of_it, few = (open_dataset(folder).for_training(seed=2, shots=shots) for shots in (None, 3))
        assert names_of(few.val) == names_of(all_of_it.val) and set(names_of(few.train)) < set(
            names_of(all_of_it.train)
        )
        assert np.bincount(few.train.targets).tolist() == [3, 3, 3]
        assert "9 train / " in few.description and "; 3 of each class to train on, seed 2)" in few.description
        many = open_dataset(folder).for_training(seed=2, shots=1000)
        assert "; at most 1000 of each class to train on, seed 2)" in many.description
        for images in (few.train, few.val):
            assert all(images.classes[t] in images.name(i) for i, t in enumerate(images.targets))

    def test_names_of_files_outside_unicode(self):
        images = FileImages(["a/\udce9.png", "b/x.png", "b/y.png"], [0, 1, 1], ("a", "b\udce9"))
        assert len(draw_shots(images, 1, seed=0)) == 2


def test_a_subset_of_a_subset(tmp_path):
    sets = open_dataset(draw_folder(tmp_path / "set")).for_training()
    twice = sets.train.subset(np.array([5, 30, 2])).subset(np.array([2, 1]))
    assert [twice.name(i) for i in (0, 1)] == [sets.train.name(2), sets.train.name(30)]
    assert twice.targets.tolist() == sets.train.targets[[2, 30]].tolist() and len(sets.train) == 36
