import tarfile
from pathlib import Path

import pytest

from rexnet.data.datasets.shard_writing import ShardConfig, write_shards


@pytest.fixture
def shards(image_folder, tmp_path) -> Path:
    """`image_folder` as tars of ten images."""
    output = tmp_path / "shards"
    write_shards(ShardConfig(data=str(image_folder), output=str(output), images_per_shard=10, workers=0))
    return output


@pytest.fixture(scope="session")
def tiny_coco(shared_data, tmp_path_factory) -> Path:
    """A hundred real images of COCO with their annotations; nobody writes into it."""
    root = tmp_path_factory.mktemp("coco")
    with tarfile.open(shared_data / "tiny_coco.tar") as archive:
        archive.extractall(root, filter="data")
    return next(root.rglob("annotations")).parent
