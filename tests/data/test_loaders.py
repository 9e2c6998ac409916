import gc
import logging
import multiprocessing
import pickle
import random
import subprocess
import sys
import textwrap
from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import final

import numpy as np
import pytest
import torch
from PIL import Image

from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import open_dataset
from rexnet.data.image_set import ArrayImages, FileImages, ImageSet
from rexnet.data.loaders import EvalBatches, TrainBatches
from rexnet.data.preprocess import Preprocess
from rexnet.data.transforms import TrainTransform, batch_mixer
from rexnet.errors import BadImageError
from tests.drawings import encoded, landscape

PREPROCESS = Preprocess(image_size_px=16, crop_ratio=1.0)
AUGMENT = AugmentConfig(auto_augment="rand-m9-mstd0.5", random_erasing=0.5)
TRANSFORM = TrainTransform(PREPROCESS, AUGMENT)


def numbered(count: int, classes: int = 3) -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 12, 10, 3), dtype=np.uint8)
    names = tuple(str(label) for label in range(classes))
    return ArrayImages(pixels, np.arange(count) % classes, names, label="noise", numbers=np.arange(count))


def files_with_bad_ones(folder: Path, count: int, bad: set[int]) -> FileImages:
    folder.mkdir(exist_ok=True)
    paths = [str(folder / f"{number:02d}.png") for number in range(count)]
    for number, path in enumerate(paths):
        if number in bad:
            Path(path).write_bytes(b"" if number % 2 else b"text")
        else:
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return FileImages(paths, np.arange(count) % 2, ("a", "b"))


def jpegs(folder: Path, count: int, cut_off: Collection[int] = ()) -> FileImages:
    folder.mkdir()
    paths = [folder / f"{number:02d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        data = encoded(landscape(60 + number, 50), quality=90)
        path.write_bytes(data[: -len(data) // 4] if number in cut_off else data)
    return FileImages([str(path) for path in paths], np.arange(count) % 2, ("a", "b"))


def train_batches(images, **options) -> TrainBatches:
    return TrainBatches(images, TRANSFORM, **{"batch_size": 4, "seed": 0, **options})


def same(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)
    )


def indices(batches) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def flat_indices(batches) -> list[int]:
    return list(chain.from_iterable(indices(batches)))


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


class TestOrder:
    @pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 9, 13, 31])
    @pytest.mark.parametrize("batch_size", [2, 3, 4, 64])
    def test_each_image_once_and_never_a_batch_of_one(self, count, batch_size):
        batches = train_batches(numbered(count), batch_size=batch_size)
        sizes = [len(batch.indices) for batch in batches.epoch(0)]
        assert len(sizes) == len(batches) and min(sizes) >= 2 and max(sizes) <= batch_size + 1
        assert sorted(flat_indices(batches.epoch(1))) == list(range(count))
        assert batches.num_images == count

    def test_merging_is_logged_once(self, caplog):
        caplog.set_level(logging.INFO)
        batches = train_batches(numbered(9))
        for epoch in range(3):
            assert [len(batch.images) for batch in batches.epoch(epoch)] == [4, 5]
        assert caplog.text.count("merged") == 1

    def test_targets_and_pixels_belong_to_the_index(self):
        images = numbered(13)
        augment = AugmentConfig(crop_scale=(1, 1), crop_aspect=(1, 1), crop_interpolation="bicubic", horizontal_flip=0)
        plain = TrainTransform(PREPROCESS, augment)
        for batch in TrainBatches(images, plain, batch_size=4, seed=1).epoch(0):
            assert batch.images.dtype == torch.float32 and batch.images.shape[1:] == (3, 16, 16)
            assert batch.targets.dtype == batch.indices.dtype == torch.int64
            for tensor, target, index in zip(*batch, strict=True):
                assert target == images.targets[index]
                assert torch.equal(tensor, plain(images.load(int(index))))

    def test_epochs_and_seeds_differ(self):
        images = numbered(40)
        orders = {
            (seed, epoch): tuple(flat_indices(train_batches(images, seed=seed).epoch(epoch)))
            for seed in (0, 1)
            for epoch in (0, 1, 2)
        }
        assert len(set(orders.values())) == 6

    @pytest.mark.parametrize(("count", "world_size"), [(24, 2), (25, 2), (29, 3), (31, 4)])
    def test_ranks_share_the_epoch_like_one_process(self, count, world_size):
        images = numbered(count)
        ranks = [train_batches(images, batch_size=3, rank=r, world_size=world_size) for r in range(world_size)]
        whole = train_batches(images, batch_size=3 * world_size)
        per_rank = [list(batches.epoch(2)) for batches in ranks]
        assert len({len(batches) for batches in ranks}) == 1
        assert {len(read) for read in per_rank} == {len(ranks[0])}
        together = flat_indices(chain.from_iterable(per_rank))
        assert len(together) == len(set(together)) == ranks[0].num_images == count // world_size * world_size
        for step, batch in enumerate(whole.epoch(2)):
            if len(batch.indices) == 3 * world_size and step < len(ranks[0]) - 1:
                assert set(batch.indices.tolist()) == set().union(*(read[step].indices.tolist() for read in per_rank))

    @pytest.mark.parametrize(
        ("count", "options", "message"),
        [
            (1, {}, "1 training images for 1 processes"),
            (0, {}, "0 training images"),
            (3, {"world_size": 2}, "3 training images for 2 processes"),
            (9, {"batch_size": 1}, "batch size is 1; allowed: 2 or more"),
            (9, {"seed": -1}, "seed is -1"),
        ],
    )
    def test_refused(self, count, options, message):
        with pytest.raises(ValueError, match=message):
            train_batches(numbered(count), **options)


class TestRepeatable:
    def test_independent_of_workers_and_of_what_was_read_before(self):
        images = numbered(23)
        alone = train_batches(images)
        expected = {epoch: list(alone.epoch(epoch)) for epoch in (0, 1)}
        assert not same(expected[0], expected[1])
        for workers in (1, 2):
            batches = train_batches(images, workers=workers)
            assert same(list(batches.epoch(1)), expected[1])
            assert same(list(batches.epoch(0)), expected[0])
            assert same(list(batches.epoch(1)), expected[1])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_starting_in_the_middle_and_stopping_early(self, workers):
        batches = train_batches(numbered(23), workers=workers)
        whole = list(batches.epoch(3))
        assert same(list(batches.epoch(3, start_step=2)), whole[2:])
        assert list(batches.epoch(3, start_step=len(whole))) == []
        unfinished = batches.epoch(5)
        next(unfinished)
        unfinished.close()
        assert same(list(batches.epoch(3)), whole)

    def test_augmentation_follows_the_image_not_its_place(self):
        """The same image in the same epoch looks the same in any batch size and on any rank, and not in another."""
        images = numbered(24)

        def views(epoch, **options):
            found = {}
            for batch in train_batches(images, **options).epoch(epoch):
                found.update(zip(batch.indices.tolist(), batch.images, strict=True))
            return found

        expected = views(0)
        for other in (views(0, batch_size=7), {**views(0, rank=0, world_size=2), **views(0, rank=1, world_size=2)}):
            assert expected.keys() == other.keys()
            assert all(torch.equal(expected[index], other[index]) for index in expected)
        for changed in (views(1), views(0, seed=1)):
            assert sum(torch.equal(expected[index], changed[index]) for index in expected) <= 1

    def test_images_of_a_batch_are_augmented_differently(self):
        same_image = ArrayImages(
            np.broadcast_to(numbered(1)._pixels, (8, 12, 10, 3)), np.zeros(8), ("a",), label="x", numbers=np.arange(8)
        )
        (batch,) = train_batches(same_image, batch_size=8).epoch(0)
        assert len({tuple(image.flatten().tolist()) for image in batch.images}) == 8

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_callers_random_generators_are_unchanged(self, workers):
        batches = train_batches(numbered(9), workers=workers, mixer=batch_mixer(AugmentConfig(mixup=1.0), 3))
        val = EvalBatches(numbered(9), PREPROCESS, batch_size=4, workers=workers)
        before = random_states()
        assert len(list(batches.epoch(0))) == 2 and len(list(val)) == 3
        assert random_states() == before

    def test_also_after_an_error(self, tmp_path):
        batches = train_batches(files_with_bad_ones(tmp_path / "x", 4, {1}))
        before = random_states()
        with pytest.raises(BadImageError):
            list(batches.epoch(0))
        assert random_states() == before

    @pytest.mark.parametrize("kind", ["arrays", "files"])
    def test_arguments_of_workers_survive_pickling(self, kind, tmp_path):
        images = numbered(9) if kind == "arrays" else files_with_bad_ones(tmp_path / "x", 9, set())
        mixer = batch_mixer(AugmentConfig(mixup=0.5), len(images.classes))
        batches = train_batches(images, mixer=mixer)
        copy = pickle.loads(pickle.dumps(batches))
        assert same(list(copy.epoch(1))[:2], list(batches.epoch(1))[:2])
        val = EvalBatches(images, PREPROCESS, batch_size=64)
        assert same(list(pickle.loads(pickle.dumps(val))), list(val))

    @pytest.mark.slow
    def test_spawned_workers(self, image_folder):
        """As on Windows and macOS; in a program of its own, whose module the workers import anew."""
        program = image_folder.parent / "program.py"
        program.write_text(
            textwrap.dedent(
                """
                import sys
                import torch
                from rexnet.data.datasets import open_dataset
                from rexnet.data.loaders import TrainBatches
                from rexnet.data.transforms import AugmentConfig, Preprocess, TrainTransform, batch_mixer

                if __name__ == "__main__":
                    sets = open_dataset(sys.argv[1]).for_training()
                    augment = AugmentConfig(auto_augment="rand-m9-mstd0.5", random_erasing=0.5, mixup=0.5)
                    transform = TrainTransform(Preprocess(image_size_px=16), augment)
                    options = dict(batch_size=8, seed=0, mixer=batch_mixer(augment, len(sets.classes)))
                    here = TrainBatches(sets.train, transform, **options)
                    spawned = TrainBatches(sets.train, transform, workers=1, start_method="spawn", **options)
                    for ours, theirs in zip(here.epoch(1), spawned.epoch(1), strict=True):
                        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
                    print("equal")
                """
            )
        )
        done = subprocess.run([sys.executable, program, image_folder], capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


class TestMixing:
    @pytest.mark.parametrize("augment", [AugmentConfig(mixup=0.5), AugmentConfig(cutmix=1.0, label_smoothing=0.1)])
    def test_soft_targets_even_batches_any_workers(self, augment):
        images = numbered(15)
        mixer = batch_mixer(augment, 3)
        expected = list(train_batches(images, batch_size=5, mixer=mixer).epoch(0))
        assert [len(batch.images) for batch in expected] == [4, 4, 4]
        for batch in expected:
            assert len(batch.targets) == len(batch.indices) == 4 and batch.targets.shape == (4, 3)
            torch.testing.assert_close(batch.targets.sum(1), torch.ones(4))
        assert same(list(train_batches(images, batch_size=5, mixer=mixer, workers=2).epoch(0)), expected)
        assert not same(list(train_batches(images, batch_size=5, mixer=mixer).epoch(1)), expected)


class TestEvaluation:
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    @pytest.mark.parametrize("count", [1, 2, 17, 31])
    @pytest.mark.parametrize("batch_size", [1, 4, 64])
    def test_every_image_exactly_once(self, count, world_size, batch_size):
        images = numbered(count)
        read = []
        for rank in range(world_size):
            batches = EvalBatches(images, PREPROCESS, batch_size=batch_size, rank=rank, world_size=world_size)
            mine = flat_indices(batches)
            assert mine == list(range(rank, count, world_size))
            assert batches.num_images == len(mine) and len(batches) == -(-len(mine) // batch_size)
            read += mine
        assert sorted(read) == list(range(count))

    def test_workers_and_repetition(self):
        images = numbered(17)
        alone = EvalBatches(images, PREPROCESS, batch_size=4)
        expected = list(alone)
        several = EvalBatches(images, PREPROCESS, batch_size=4, workers=2)
        for again in (alone, several, several):
            assert same(list(again), expected)
        assert torch.equal(expected[1].images[2], PREPROCESS(images.load(6)))

    def test_batch_size(self):
        with pytest.raises(ValueError, match="batch size is 0"):
            EvalBatches(numbered(3), PREPROCESS, batch_size=0)


class TestBadImages:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_error_is_one_sentence_with_the_path(self, tmp_path, workers):
        images = files_with_bad_ones(tmp_path / "x", 12, {5})
        for batches in (
            train_batches(images, workers=workers).epoch(0),
            iter(EvalBatches(images, PREPROCESS, batch_size=4, workers=workers)),
        ):
            caught = None
            try:  # pytest.raises would keep the worker processes in a reference cycle
                list(batches)
            except BadImageError as error:
                caught = (error.path, str(error))
            assert caught == (images.name(5), f"{images.name(5)} cannot be used as an image: the file is empty")

    def test_an_error_keeps_no_reference_to_workers(self, tmp_path):
        """Workers of a loader that only the garbage collector finds take five seconds each to stop."""
        others = set(multiprocessing.active_children())
        batches = train_batches(files_with_bad_ones(tmp_path / "x", 12, {5}), workers=2)
        gc.disable()
        try:
            list(batches.epoch(0))
        except BadImageError:
            assert set(multiprocessing.active_children()) > others
        finally:
            del batches
            gc.enable()
        assert set(multiprocessing.active_children()) <= others

    @pytest.mark.parametrize("workers", [0, 2])
    def test_skipped_images_are_counted_and_logged_once(self, tmp_path, workers, caplog):
        images = files_with_bad_ones(tmp_path / "x", 12, {2, 5, 7})
        good, bad = {0, 1, 3, 4, 6, 8, 9, 10, 11}, {images.name(index) for index in (2, 5, 7)}
        training = train_batches(images, workers=workers, bad_image="skip")
        for epoch in range(3):
            assert set(flat_indices(training.epoch(epoch))) == good
        val = EvalBatches(images, PREPROCESS, batch_size=4, workers=workers, bad_image="skip")
        for _ in range(2):
            assert flat_indices(val) == sorted(good)
        for batches in (training, val):
            assert len(batches.skipped) == 3 and set(batches.skipped) == bad
        for name in bad:
            assert caplog.text.count(f"skipped: {name}") == 2

    def test_evaluation_drops_a_batch_without_images(self, tmp_path):
        images = files_with_bad_ones(tmp_path / "x", 6, {2, 3})
        batches = EvalBatches(images, PREPROCESS, batch_size=2, bad_image="skip")
        assert indices(batches) == [[0, 1], [4, 5]]

    @pytest.mark.parametrize("bad", [{0}, {0, 1}, {0, 1, 2, 3, 4, 5}, {1, 3, 5, 7}])
    def test_training_keeps_its_steps_and_two_images_a_batch(self, tmp_path, bad):
        images = files_with_bad_ones(tmp_path / "x", 8, bad)
        batches = train_batches(images, batch_size=2, bad_image="skip")
        for epoch in range(4):
            read = indices(batches.epoch(epoch))
            assert len(read) == 4
            assert all(len(set(batch)) == len(batch) == 2 and not bad & set(batch) for batch in read)

    @pytest.mark.parametrize("bad", [{0, 1, 2, 3}, {0, 1, 3}])
    def test_no_remaining_image_to_train_on(self, tmp_path, bad):
        batches = train_batches(files_with_bad_ones(tmp_path / "x", 4, bad), bad_image="skip")
        with pytest.raises(ValueError, match="of 4 training images can be read"):
            list(batches.epoch(0))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_jpeg_cut_off_is_never_half_gray(self, tmp_path, workers):
        """Whether the crop lies above the damage or not."""
        images = jpegs(tmp_path / "x", 8, cut_off={3})
        training = train_batches(images, workers=workers, bad_image="skip")
        for epoch in range(3):
            assert set(flat_indices(training.epoch(epoch))) == set(range(8)) - {3}
        assert training.skipped == [images.name(3)]
        with pytest.raises(BadImageError, match=r"03\.jpg cannot be used as an image: its data is damaged"):
            list(train_batches(images, workers=workers).epoch(0))


class TestDevice:
    def test_batches_are_there(self):
        images, mixer = numbered(9), batch_mixer(AugmentConfig(mixup=0.5), 3)
        for batch in train_batches(images, device="meta").epoch(0):
            assert batch.images.device.type == batch.targets.device.type == "meta"
            assert batch.indices.device.type == "cpu"
        assert same(
            list(train_batches(images, mixer=mixer, device=torch.device("cpu")).epoch(0)),
            list(train_batches(images, mixer=mixer).epoch(0)),
        )

    @pytest.mark.gpu
    def test_same_batches_on_a_gpu(self, tmp_path):
        images, mixer = jpegs(tmp_path / "x", 9), batch_mixer(AugmentConfig(mixup=0.5), 2)
        pairs = zip(
            train_batches(images, mixer=mixer, device="cuda", workers=2, pin_memory=True).epoch(0),
            train_batches(images, mixer=mixer).epoch(0),
            strict=True,
        )
        for there, here in pairs:
            torch.testing.assert_close(there.images.cpu(), here.images)
            torch.testing.assert_close(there.targets.cpu(), here.targets)
            assert torch.equal(there.indices, here.indices)


class TestSources:
    def test_encoded_bytes_give_the_batches_of_files(self, tmp_path):
        """What an image set of shards has to do."""

        @final
        class Encoded(ImageSet):
            def source(self, index: int) -> bytes:
                return Path(files.name(index)).read_bytes()

            def name(self, index: int) -> str:
                return f"shard/{index}"

        files = jpegs(tmp_path / "x", 9, cut_off={2})
        shards = Encoded(files.targets, files.classes)
        assert shards.load(1).size == files.load(1).size
        both = [train_batches(images, bad_image="skip") for images in (files, shards)]
        assert same(*(list(batches.epoch(0)) for batches in both))
        assert both[1].skipped == ["shard/2"]


class TestFolder:
    def test_from_files_to_batches(self, image_folder):
        sets = open_dataset(image_folder).for_training()
        batches = train_batches(sets.train, batch_size=8, workers=2)
        assert sum(len(batch.images) for batch in batches.epoch(0)) == 36
        means = torch.stack([batch.images.mean() for batch in EvalBatches(sets.val, PREPROCESS, batch_size=4)])
        assert means.isfinite().all()
