"""Batches from memory: the images of the other loaders, augmented as these augment."""

import numpy as np
import pytest
import torch

from rexnet.data.datasets import open_dataset
from rexnet.data.image_set import ArrayImages
from rexnet.data.loaders import EvalBatches
from rexnet.data.memory_batches import CropAndFlip, MemoryEvalBatches, MemoryTrainBatches, decode
from rexnet.data.preprocess import Preprocess
from rexnet.errors import BadImageError

PREPROCESS = Preprocess(image_size_px=12, crop_ratio=1.0)
NO_CHANGE = CropAndFlip(padding_px=0, flip=0.0)


@pytest.fixture
def images(image_folder):
    return open_dataset(image_folder).for_training().train


def test_evaluation_batches_equal_those_of_other_loaders(images):
    pixels = decode(images, PREPROCESS)
    ours = list(MemoryEvalBatches(pixels, PREPROCESS, batch_size=5))
    theirs = list(EvalBatches(images, PREPROCESS, batch_size=5))
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.images, other.images, rtol=0, atol=1e-6)
        assert mine.targets.equal(other.targets)
        assert mine.indices.equal(other.indices)


def test_workers_read_the_same(images):
    assert decode(images, PREPROCESS).values.equal(decode(images, PREPROCESS, workers=2).values)


@pytest.mark.parametrize("batch_size", [2, 3, 7, 100])
def test_an_epoch_has_every_image_once_in_even_batches(images, batch_size):
    pixels = decode(images, PREPROCESS)
    batches = MemoryTrainBatches(pixels, PREPROCESS, NO_CHANGE, batch_size=batch_size, seed=0)
    seen = list(batches.epoch(3))
    sizes = [len(batch.images) for batch in seen]
    assert len(seen) == len(batches)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    order = torch.cat([batch.indices for batch in seen])
    assert order.sort().values.equal(torch.arange(len(images)))
    assert not order.equal(torch.cat([batch.indices for batch in batches.epoch(4)]))
    whole = torch.cat([batch.images for batch in MemoryEvalBatches(pixels, PREPROCESS, batch_size=9)])
    torch.testing.assert_close(torch.cat([batch.images for batch in seen]), whole[order])
    assert torch.cat([batch.targets for batch in seen]).equal(torch.from_numpy(images.targets)[order])


def test_an_epoch_continues_at_any_step_without_touching_random_generators(images):
    augment = CropAndFlip(padding_px=3, flip=0.5)
    batches = MemoryTrainBatches(decode(images, PREPROCESS), PREPROCESS, augment, batch_size=4, seed=5)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    whole = list(batches.epoch(1))
    rest = list(batches.epoch(1, start_step=2))
    assert all(one.images.equal(other.images) for one, other in zip(whole[2:], rest, strict=True))
    assert torch.get_rng_state().equal(state[0])
    assert (np.random.get_state()[1] == state[1]).all()


def test_each_image_is_a_window_of_its_padded_original():
    """Against brute force: every crop at every place, mirrored or not, and all of them come up."""
    random = np.random.default_rng(0)
    originals = random.integers(1, 256, (6, 4, 5, 3), dtype=np.uint8)
    augment = CropAndFlip(padding_px=1, flip=0.5)
    padded = augment.pad(torch.from_numpy(originals))
    assert padded[:, 1:-1, 1:-1].equal(torch.from_numpy(originals))
    assert not padded[:, 0].any()
    found = set()
    for seed in range(40):
        chosen = torch.arange(6)
        drawn = augment.draw(padded, chosen, np.random.default_rng(seed))
        for index, image in enumerate(drawn):
            windows = {
                (top, left, flipped): padded[index, top : top + 4, left : left + 5].flip(1 if flipped else ())
                for top in range(3)
                for left in range(3)
                for flipped in (False, True)
            }
            (match,) = [key for key, window in windows.items() if window.equal(image)]
            found.add(match)
    assert len(found) == 18


def test_unreadable_images_are_named_or_skipped(image_folder, caplog):
    broken = sorted(image_folder.rglob("*.png"))[0]
    broken.write_bytes(b"not an image")
    images = open_dataset(image_folder).for_training().train
    if str(broken) not in [images.name(index) for index in range(len(images))]:
        images = open_dataset(image_folder).for_training().val
    with pytest.raises(BadImageError, match=broken.name):
        decode(images, PREPROCESS)
    pixels = decode(images, PREPROCESS, bad_image="skip")
    assert len(pixels.values) == len(images) - 1
    assert broken.name in caplog.text
    kept = [images.name(int(index)) for index in pixels.indices]
    assert str(broken) not in kept
    assert pixels.targets.tolist() == [images.targets[index] for index in pixels.indices]


def test_too_few_images_are_refused():
    one = ArrayImages(np.zeros((1, 8, 8), np.uint8), np.zeros(1, int), ("a",), label="x", numbers=np.arange(1))
    with pytest.raises(ValueError, match="two or more"):
        MemoryTrainBatches(decode(one, PREPROCESS), PREPROCESS, NO_CHANGE, batch_size=4, seed=0)
