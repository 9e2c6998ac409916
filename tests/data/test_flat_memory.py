"""Lists of a million images: held once, however many processes read from them."""

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from rexnet.data.datasets import open_dataset
from rexnet.data.datasets.shard_index import ShardIndex
from rexnet.data.datasets.shards import ShardImages
from rexnet.data.image_set import FileImages, FlatTexts

COUNT = 1_300_000  # about ImageNet's
CHUNK = 10_000
SMAPS = Path("/proc/self/smaps_rollup")


class Touch(Dataset):
    """Uses every name and target of its chunk; gives the memory that only this process or a share of it answers for."""

    def __init__(self, images):
        self.images = images

    def __getitem__(self, chunk):
        for index in range(chunk * CHUNK, (chunk + 1) * CHUNK):
            self.images.name(index)
            int(self.images.targets[index])
        rows = dict(line.split(":") for line in SMAPS.read_text().splitlines()[1:])
        return int(rows["Pss"].split()[0]) / 1024


class Names:
    """How it should not be done: an object a name, whose reference counts are written to on every use."""

    def __init__(self, count):
        self.names = [f"{number:040d}" for number in range(count)]
        self.targets = np.zeros(count, np.int64)

    def name(self, index):
        return self.names[index]


def pss_growth_mib(images, count=COUNT) -> float:
    """From a first pass of two forked workers over a few names to the end of a pass over all, both workers together."""
    gc.collect()
    loader = DataLoader(
        Touch(images), batch_size=None, sampler=range(count // CHUNK), num_workers=2, multiprocessing_context="fork"
    )
    pss = list(loader)
    assert len(pss) == count // CHUNK
    return (pss[-1] + pss[-2]) - (pss[0] + pss[1])


def files():
    class_of = np.repeat(np.arange(1000), COUNT // 1000)
    paths = [f"/data/imagenet/train/n{label:08d}/n{label:08d}_{n}.JPEG" for n, label in enumerate(class_of.tolist())]
    return FileImages(paths, class_of, [f"n{label:08d}" for label in range(1000)])


def shards():
    names = b"".join(b"%08d-image.jpg" % number for number in range(COUNT))
    index = ShardIndex(
        tars=tuple(f"train/{number:06d}.tar" for number in range(COUNT // 2000)),
        classes=("a", "b"),
        tar=(np.arange(COUNT) // 2000).astype(np.int32),
        offset=np.arange(COUNT) * 512 + 512,
        size=np.full(COUNT, 512),
        target=np.arange(COUNT) % 2,
        names=FlatTexts(np.frombuffer(names, dtype=np.uint8), np.arange(1, COUNT + 1) * 18),
    )
    return ShardImages("x", index)


@pytest.mark.slow
@pytest.mark.skipif(not SMAPS.exists(), reason="needs Linux's account of shared memory")
@pytest.mark.parametrize("make", [files, shards])
def test_workers_copy_no_names(make):
    assert pss_growth_mib(make()) < 20


@pytest.mark.seconds
@pytest.mark.skipif(not SMAPS.exists(), reason="needs Linux's account of shared memory")
def test_the_measurement_detects_a_copy():
    assert pss_growth_mib(Names(400_000), 400_000) > 20


def test_lists_of_names_are_freed(tmp_path):
    """After loading a folder, an image costs the text of its name and three numbers, not an object."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(1500):
            (tmp_path / label / f"{'long' * 20}{number}.jpg").touch()
    open_dataset(tmp_path).for_training()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    sets = open_dataset(tmp_path).for_training()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    text = sum(len(images.name(i)) for images in (sets.train, sets.val) for i in range(len(images)))
    assert held < text + 3000 * 3 * 8 + 20_000
