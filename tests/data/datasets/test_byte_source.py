import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rexnet.data.datasets import Dataset, open_dataset
from rexnet.data.datasets.byte_source import read_bytes
from rexnet.data.datasets.shard_index import pack_index, unpack_index
from rexnet.data.datasets.shard_writing import ShardConfig, write_shards
from rexnet.data.loaders import EvalBatches
from rexnet.data.preprocess import Preprocess
from rexnet.errors import BadImageError
from tests.drawings import draw_folder
from tests.range_server import Answers, serving


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("streaming")
    draw_folder(root / "in")
    write_shards(ShardConfig(data=str(root / "in"), output=str(root / "out"), images_per_shard=10, workers=0))
    return root / "out"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr("rexnet.data.datasets.byte_source._RETRY_AFTER_S", (0.01, 0.01, 0.01))


@pytest.fixture
def http():
    pytest.importorskip("aiohttp")


@pytest.mark.usefixtures("http")
class TestHttp:
    def test_same_images_as_from_the_disk(self, shards):
        local = open_dataset(shards).for_training()
        answers = Answers()
        with serving(shards.parent, answers) as url:
            sets = open_dataset(f"{url}/out/").for_training()
            assert sets.classes == local.classes and len(sets.train) == 36
            assert (
                sets.description.startswith("http://") and "36 train / 12 val images of 3 classes" in sets.description
            )
            before = answers.sent_bytes
            for index in (0, 17, 35):
                assert sets.train.source(index) == local.train.source(index)
                assert sets.train.name(index) == local.train.name(index)
            sizes = [len(local.train.source(index)) + 512 for index in (0, 17, 35)]
            assert answers.sent_bytes - before == sum(sizes), "only the ranges asked for travel"
            assert open_dataset(f"{url}/out").small_images
            assert len(open_dataset(f"{url}/out").for_measuring(("cat", "dog", "fox"))) == 12

    @pytest.mark.parametrize("workers", [0, 2])
    def test_ranks_and_forked_workers(self, shards, workers):
        with serving(shards, Answers()) as url:
            images = open_dataset(url).for_training().val
            batches = [
                batch
                for rank in (0, 1)
                for batch in EvalBatches(
                    images, Preprocess(image_size_px=32), batch_size=4, workers=workers, rank=rank, world_size=2
                )
            ]
        assert sorted(i for batch in batches for i in batch.indices.tolist()) == list(range(12))
        expected = open_dataset(shards).for_training().val.targets
        for batch in batches:
            assert np.array_equal(batch.targets.numpy(), expected[batch.indices.numpy()])

    def test_a_server_without_ranges(self, shards):
        answers = Answers(ranges=False)
        with serving(shards, answers) as url, pytest.raises(ValueError, match="does not answer range requests"):
            open_dataset(url).for_training()
        assert not [path for path in answers.requests if path.endswith(".tar")], "no tar is fetched to find out"

    def test_short_failures_are_retried_and_long_ones_reported_in_one_sentence(self, shards):
        answers = Answers(fail=lambda path, count: path.endswith(".tar") and count <= 3)
        with serving(shards, answers) as url:
            images = open_dataset(url).for_training().val
            images.load(0)
            assert max(answers.requests.values()) == 4
            answers.fail = lambda path, count: True
            with pytest.raises(BadImageError, match=r"000000\.tar cannot be read \(503") as caught:
                images.load(0)
            assert len(str(caught.value).splitlines()) == 1
            with pytest.raises(ValueError, match="503"):
                open_dataset(url).for_training()
        with pytest.raises(ValueError, match="cannot be read"):
            open_dataset(url).for_training()  # by now nobody answers

    def test_missing_files(self, shards, tmp_path):
        shutil.copytree(shards, tmp_path / "copy")
        with serving(tmp_path, Answers()) as url:
            with pytest.raises(ValueError, match=r"/nothing/shards\.json does not exist; a URL must lead to a folder"):
                open_dataset(f"{url}/nothing").for_training()
            images = open_dataset(f"{url}/copy").for_training().train
            (tmp_path / "copy" / "train" / "000000.tar").unlink()
            with pytest.raises(BadImageError, match=r"000000\.tar does not exist"):
                images.load(0)
            (tmp_path / "copy" / "index-val.npz").unlink()
            with pytest.raises(ValueError, match=r"index-val\.npz does not exist"):
                open_dataset(f"{url}/copy").for_training()
            (tmp_path / "copy" / "index-val.npz").write_bytes(b"x")
            with pytest.raises(ValueError, match="not a rexnet index"):
                open_dataset(f"{url}/copy").for_training()

    def test_an_index_of_other_shards(self, shards, tmp_path):
        shutil.copytree(shards, tmp_path / "copy")
        shutil.copy(shards / "index-val.npz", tmp_path / "copy" / "index-train.npz")
        with serving(tmp_path / "copy", Answers()) as url, pytest.raises(ValueError, match="belongs to other shards"):
            open_dataset(url).for_training()

    def test_an_index_of_version_1(self, shards, tmp_path):
        shutil.copytree(shards, tmp_path / "copy")
        path = tmp_path / "copy" / "index-val.npz"
        index, about = unpack_index(path.read_bytes())
        path.write_bytes(pack_index(index, {**about, "version": 1}))
        with serving(tmp_path / "copy", Answers()) as url:
            assert len(open_dataset(url).for_training().val) == 12

    def test_changed_tars_are_an_error_and_not_another_image(self, shards, tmp_path):
        shutil.copytree(shards, tmp_path / "copy")
        with serving(tmp_path / "copy", Answers()) as url:
            images = open_dataset(url).for_training().train
            for content in (os.urandom(50_000), b"short"):
                (tmp_path / "copy" / "train" / "000000.tar").write_bytes(content)
                with pytest.raises(BadImageError):
                    images.load(0)


class TestOtherUrls:
    def test_fsspec_reads_files_and_memory(self, shards):
        import fsspec

        memory = fsspec.filesystem("memory")
        memory.put(str(shards), "/set", recursive=True)
        local = open_dataset(shards).for_training().val
        for url in (f"file://{shards}", "memory://set"):
            images = open_dataset(url).for_training().val
            assert [images.source(i) for i in range(12)] == [local.source(i) for i in range(12)]
        memory.rm("/set", recursive=True)

    @pytest.mark.parametrize(
        ("url", "said"),
        [("nonsense://x", "is not a URL that can be read"), ("file:///no/such/folder", "does not exist")],
    )
    def test_unreachable_urls(self, url, said):
        for function in (Dataset.for_training, lambda dataset: dataset.small_images):
            with pytest.raises(ValueError, match=said):
                function(open_dataset(url))

    def test_a_missing_package_is_named_with_its_pip_command(self):
        script = (
            "import sys; sys.modules['aiohttp'] = None\n"
            "from rexnet.data.datasets.byte_source import read_bytes\n"
            "try: read_bytes('https://example.org/shards/x')\n"
            "except ValueError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("https://example.org/shards needs a package that is not installed (")
        assert done.stdout.endswith("pip install 'rexnet[stream]'\n")

    def test_a_part_of_a_local_file(self, tmp_path):
        (tmp_path / "x").write_bytes(b"0123456789")
        path = str(tmp_path / "x")
        assert (read_bytes(path), read_bytes(path, 2, 5), read_bytes(path, 8, 20)) == (b"0123456789", b"234", b"89")
