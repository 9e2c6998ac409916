from pathlib import Path

import pytest

from rexnet.data.shard_writing import ShardConfig, write_shards


@pytest.fixture
def shards(image_folder, tmp_path) -> Path:
    """`image_folder` as tars of ten images."""
    output = tmp_path / "shards"
    write_shards(ShardConfig(data=str(image_folder), output=str(output), images_per_shard=10, workers=0))
    return output
