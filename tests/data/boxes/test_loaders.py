import os
import random
import subprocess
import sys
import textwrap
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from rexnet.data.boxes.coco import load_coco_images
from rexnet.data.boxes.loaders import EvalDetectionBatches, TrainDetectionBatches
from rexnet.data.boxes.transforms import DetectionTransform
from rexnet.data.config import DetectionAugmentConfig
from rexnet.errors import BadImageError
from tests.coco_files import annotation, image_entry, many_images, write_side

TRANSFORM = DetectionTransform(DetectionAugmentConfig(photometric_distortion=0.5, zoom_out=0.5, iou_crop=True))
STILL = DetectionTransform(DetectionAugmentConfig(horizontal_flip=0))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """23: sixteen wide (or square) and seven tall ones."""
    return load_coco_images(many_images(tmp_path_factory.mktemp("many"), 23))


def train_batches(images, transform=TRANSFORM, **options):
    return TrainDetectionBatches(images, transform, **{"batch_size": 4, "seed": 0, **options})


def same(ours, theirs) -> bool:
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) and all(
        torch.equal(one.indices, other.indices)
        and all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))
        and all(
            a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
            for a, b in zip(one.targets, other.targets, strict=True)
        )
        for one, other in zip(ours, theirs, strict=True)
    )


def indices(batches) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


class TestOrder:
    @pytest.mark.parametrize("count", [1, 2, 5, 23])
    @pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    def test_each_image_once_and_equal_steps(self, tmp_path, count, batch_size, world_size):
        few = load_coco_images(many_images(tmp_path, count))
        if count < world_size:
            with pytest.raises(ValueError, match=f"{count} training images for {world_size} processes"):
                train_batches(few, world_size=world_size)
            return
        ranks = [
            train_batches(few, STILL, batch_size=batch_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for epoch in (0, 1, 7):
            read = [batches._order(epoch) for batches in ranks]
            assert {len(each) for each in read} == {len(ranks[0])}
            sizes = [len(batch) for batch in chain(*read)]
            assert min(sizes) >= 1 and max(sizes) <= batch_size + (world_size > 1)
            assert sorted(np.concatenate(list(chain(*read))).tolist()) == list(range(count))
        assert sorted(chain(*indices(ranks[0].epoch(3)))) == sorted(np.concatenate(ranks[0]._order(3)).tolist())

    def test_two_ranks_are_one_of_twice_the_batch(self, images):
        ranks = [train_batches(images, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
        whole = train_batches(images, batch_size=4)
        steps = list(zip(*(batches.epoch(1) for batches in ranks), whole.epoch(1), strict=True))
        assert len(steps) == len(whole) == len(ranks[0])
        for first, second, both in steps:
            assert sorted([*first.indices.tolist(), *second.indices.tolist()]) == sorted(both.indices.tolist())
            by_index = dict(zip(both.indices.tolist(), both.images, strict=True))
            for mine in (first, second):
                assert all(
                    torch.equal(image, by_index[i]) for i, image in zip(mine.indices.tolist(), mine.images, strict=True)
                )

    def test_wide_and_tall_images_are_batched_separately(self, images):
        wide = images.width_px >= images.height_px
        for epoch in range(5):
            mixed = [batch for batch in train_batches(images)._order(epoch) if len(set(wide[batch].tolist())) > 1]
            assert len(mixed) == 0, "16 and 7 leave 3 tall ones, which have a batch of their own"
        loose = train_batches(images, group_by_aspect=False)._order(0)
        assert any(len(set(wide[batch].tolist())) > 1 for batch in loose)

    def test_epochs_and_seeds_differ_in_images_and_kinds(self, images):
        orders = {(s, e): tuple(map(tuple, train_batches(images, seed=s)._order(e))) for s in (0, 1) for e in (0, 1, 2)}
        assert len(set(orders.values())) == 6
        wide = images.width_px >= images.height_px
        assert len({tuple(bool(wide[batch[0]]) for batch in order) for order in orders.values()}) > 1

    @pytest.mark.parametrize(
        ("options", "said"), [({"batch_size": 0}, "batch size is 0"), ({"seed": -1}, "seed is -1")]
    )
    def test_refused(self, images, options, said):
        with pytest.raises(ValueError, match=said):
            train_batches(images, **options)

    def test_missing_masks(self, tmp_path):
        plain = load_coco_images(write_side(tmp_path, "train", [image_entry(1)], [annotation(1)]))
        with pytest.raises(ValueError, match="boxes but no masks"):
            train_batches(plain, masks=True)


class TestRepeatable:
    @pytest.mark.seconds
    @pytest.mark.parametrize("masks", [False, True])
    def test_workers_positions_and_what_was_read_before(self, images, masks):
        alone = train_batches(images, masks=masks)
        expected = list(alone.epoch(2))
        assert not same(alone.epoch(1), expected)
        for workers in (1, 2):
            batches = train_batches(images, masks=masks, workers=workers)
            unfinished = batches.epoch(5)
            next(unfinished)
            unfinished.close()
            assert same(batches.epoch(2), expected)
            for start in (1, 4, len(expected)):
                assert same(batches.epoch(2, start_step=start), expected[start:])

    def test_the_callers_random_generators_are_unchanged(self, images):
        def states():
            return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

        before = states()
        assert len(list(train_batches(images).epoch(0))) == len(train_batches(images))
        assert states() == before

    @pytest.mark.seconds
    def test_spawned_workers(self, images):
        options = {"batch_size": 8, "masks": True}
        spawned = train_batches(images, workers=1, start_method="spawn", **options)
        assert same(spawned.epoch(0), train_batches(images, **options).epoch(0))


class TestContent:
    def test_targets_belong_to_their_images(self, images):
        seen = 0
        for batch in train_batches(images, STILL, masks=True).epoch(0):
            for index, image, target in zip(batch.indices.tolist(), batch.images, batch.targets, strict=True):
                expected = images.target(index)
                single = expected["iscrowd"] == 0
                assert np.array_equal(image.mul(255).round().byte().permute(1, 2, 0), np.asarray(images.load(index)))
                assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
                assert np.array_equal(target["boxes"], expected["boxes"][single])
                assert np.array_equal(target["labels"], expected["labels"][single])
                assert np.array_equal(target["masks"], images.masks(index)[single])
                assert target["image_id"].item() == images.image_ids[index]
                seen += len(target["boxes"])
        assert seen == int((images.iscrowd == 0).sum()), "no crowd, and everything else"

    @pytest.mark.parametrize("world_size", [1, 2, 3])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_evaluation_reads_every_image_once_in_order(self, images, world_size, workers):
        read = []
        for rank in range(world_size):
            batches = EvalDetectionBatches(images, batch_size=4, rank=rank, world_size=world_size, workers=workers)
            mine = list(chain(*indices(batches)))
            assert mine == list(range(rank, 23, world_size)) == list(chain(*indices(batches)))
            assert batches.num_images == len(mine) and len(batches) == -(-len(mine) // 4)
            read += mine
        assert sorted(read) == list(range(23))

    def test_tiny_coco(self, tiny_coco):
        images = load_coco_images(tiny_coco / "annotations" / "instances_train2017.json")
        flipped = DetectionTransform(DetectionAugmentConfig())
        batches = train_batches(images, flipped, batch_size=16, masks=True)
        found = [batch for batch in batches.epoch(0)]
        assert sum(len(batch.images) for batch in found) == 50
        for target in chain(*(batch.targets for batch in found)):
            assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all() and all(
                mask.any() for mask in target["masks"]
            )


class TestBadImages:
    @pytest.fixture
    def damaged(self, tmp_path):
        images = load_coco_images(many_images(tmp_path, 9))
        for index, content in ((2, b""), (5, b"text")):
            Path(images.name(index)).write_bytes(content)
        write_side(tmp_path / "other", "train", [image_entry(8, 20, 20)], [])
        os.replace(tmp_path / "other" / "train" / "8.png", images.name(7))
        return images

    @pytest.mark.parametrize("workers", [0, 2])
    def test_bad_images_are_skipped_or_named(self, damaged, workers):
        good = {0, 1, 3, 4, 6, 8}
        training = train_batches(damaged, bad_image="skip", workers=workers)
        for epoch in range(3):
            assert set(chain(*indices(training.epoch(epoch)))) == good
        val = EvalDetectionBatches(damaged, batch_size=3, bad_image="skip", workers=workers)
        assert list(chain(*indices(val))) == sorted(good)
        for batches in (training, val):
            assert sorted(batches.skipped) == [damaged.name(index) for index in (2, 5, 7)]
        with pytest.raises(BadImageError, match=r"3\.png cannot be used as an image: the file is empty"):
            list(EvalDetectionBatches(damaged, batch_size=3, workers=workers))

    def test_single_images_keep_their_steps(self, damaged):
        batches = train_batches(damaged, batch_size=1, bad_image="skip")
        read = indices(batches.epoch(0))
        assert len(read) == 9 and all(len(batch) == 1 for batch in read)

    def test_no_image_remains(self, tmp_path):
        images = load_coco_images(many_images(tmp_path, 2))
        for index in range(2):
            Path(images.name(index)).write_bytes(b"")
        with pytest.raises(ValueError, match="none of 2 training images can be read"):
            list(train_batches(images, bad_image="skip").epoch(0))

    @pytest.mark.seconds
    def test_a_killed_worker_ends_the_process(self, tmp_path):
        """In a process of its own: PyTorch raises wherever the main process happens to be."""
        file = many_images(tmp_path, 30)
        program = textwrap.dedent(
            f"""
            import os, signal
            from rexnet.data.boxes.transforms import DetectionAugmentConfig, DetectionTransform
            from rexnet.data.boxes.coco import load_coco_images
            from rexnet.data.boxes.loaders import TrainDetectionBatches

            transform = DetectionTransform(DetectionAugmentConfig())
            batches = TrainDetectionBatches(
                load_coco_images({str(file)!r}), transform, batch_size=1, seed=0, workers=1
            )
            for step, batch in enumerate(batches.epoch(0)):
                if step == 0:
                    print("read", flush=True)
                    os.kill(batches._loader._iterator._workers[0].pid, signal.SIGKILL)
            print("the end")
            """
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and done.stdout == "read\n"
