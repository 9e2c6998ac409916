import io
import json
import os
import tarfile

import numpy as np
import pytest

from rexnet.data.datasets import open_dataset
from rexnet.data.datasets.shard_index import pack_index, unpack_index
from rexnet.errors import BadImageError
from tests.tars import LETTERS, foreign, jpeg, names_of, write_tar


class TestIndex:
    def test_the_index_is_used_while_the_tars_are_unchanged(self, shards, monkeypatch):
        monkeypatch.setattr(
            "rexnet.data.datasets.shard_index.build_index", lambda *_: pytest.fail("read the tars again")
        )
        assert len(open_dataset(shards).for_training().train) == 36

    def test_a_changed_tar_is_read_again(self, shards):
        open_dataset(shards).for_training()
        tar = shards / "train" / "000003.tar"
        write_tar(tar, [(f"new{n}.{s}", d) for n in range(6) for s, d in (("jpg", jpeg(n)), ("cls", b"2"))])
        assert [name for name in names_of(open_dataset(shards).for_training().train) if "new5" in name]

    def test_same_size_other_time(self, shards):
        before = open_dataset(shards).for_training().train.targets.tolist()
        tar = shards / "train" / "000000.tar"
        data = bytearray(tar.read_bytes())
        with tarfile.open(tar) as archive:
            label = next(member for member in archive if member.name.endswith(".cls"))
        data[label.offset_data : label.offset_data + 1] = b"0" if data[label.offset_data] != ord("0") else b"1"
        tar.write_bytes(data)
        os.utime(tar, ns=(1, 1))
        assert open_dataset(shards).for_training().train.targets.tolist() != before

    def test_a_tar_replaced_while_in_use_is_noticed(self, shards):
        images = open_dataset(shards).for_training().train
        tar = shards / images.name(2).rpartition("/")[0]
        data = tar.read_bytes()
        for changed in (data[:1000], b"\0" * len(data), data[512:], os.urandom(len(data))):
            tar.write_bytes(changed)
            with pytest.raises(BadImageError, match="has changed since it was indexed"):
                images.load(2)
        tar.unlink()
        with pytest.raises(BadImageError, match=r"train/000000\.tar"):
            images.load(2)

    def test_another_sample_in_the_same_place_is_noticed(self, shards):
        images = open_dataset(shards).for_training().train
        tar = shards / "train" / "000000.tar"
        data = tar.read_bytes()
        with tarfile.open(tar) as archive:
            members = [(member.name.replace("000-", "999-"), archive.extractfile(member).read()) for member in archive]
        write_tar(tar, members, format=tarfile.USTAR_FORMAT)
        assert len(tar.read_bytes()) == len(data)
        with pytest.raises(BadImageError, match="has changed since"):
            images.load(0)

    def test_other_classes_invalidate_the_index(self, tmp_path):
        root = foreign(tmp_path / "set")
        assert open_dataset(root).for_training().classes == LETTERS
        (root / "classes.txt").write_text("x\ny\n")
        assert open_dataset(root).for_training().classes == ("x", "y")

    @pytest.mark.parametrize("damage", [b"", b"PK", None])
    def test_a_damaged_index_is_rebuilt(self, shards, damage, caplog):
        path = shards / "index-train.npz"
        path.write_bytes(path.read_bytes()[:500] if damage is None else damage)
        assert len(open_dataset(shards).for_training().train) == 36 and "is rebuilt" in caplog.text
        caplog.clear()
        assert len(open_dataset(shards).for_training().train) == 36 and not caplog.text

    def test_an_index_of_an_older_version_is_rebuilt(self, shards):
        """It may group the members of tars of others in another way."""
        path = shards / "index-train.npz"
        index, about = unpack_index(path.read_bytes())
        path.write_bytes(pack_index(index, {**about, "version": 1}))
        open_dataset(shards).for_training()
        assert unpack_index(path.read_bytes())[1] == about

    def test_a_read_only_folder(self, tmp_path, monkeypatch):
        root = foreign(tmp_path / "set")
        monkeypatch.setattr("rexnet.files.os.replace", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
        assert len(open_dataset(root).for_training().train) == 6
        assert not list(root.glob("index*")), "nothing half-written stays"

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            *(("offset", value) for value in (0, 10**9, 2**63 - 1)),
            *(("size", value) for value in (-1, 2**40)),
            *(("tar", value) for value in (4, -1)),
            *(("target", value) for value in (3, -1)),
            *(("names_end", value) for value in (10**6, -1)),
        ],
    )
    def test_rows_that_point_to_another_file_are_refused(self, shards, column, value):
        index, about = unpack_index((shards / "index-train.npz").read_bytes())
        (index.names.ends if column == "names_end" else getattr(index, column))[3] = value
        with pytest.raises(ValueError, match="not a rexnet index"):
            unpack_index(pack_index(index, about))

    def test_pickles_and_compression_are_refused(self):
        for save, value in ((np.savez, np.array([{}], dtype=object)), (np.savez_compressed, np.zeros(10**6))):
            buffer = io.BytesIO()
            save(buffer, about=value)
            with pytest.raises(ValueError, match="not a rexnet index"):
                unpack_index(buffer.getvalue())

    def test_random_damage_is_refused_or_harmless(self, shards):
        data = (shards / "index-train.npz").read_bytes()
        random = np.random.default_rng(0)
        for _ in range(300):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 3):
                damaged[place] = random.integers(0, 256)
            try:
                index, _, _ = unpack_index(bytes(damaged))
            except ValueError:
                continue
            assert len(index) == 36 and index.target.max() < 3


class TestDamage:
    def test_a_tar_cut_anywhere(self, tmp_path):
        root = foreign(tmp_path)
        tar = root / "train" / "0.tar"
        data = tar.read_bytes()
        with tarfile.open(tar) as archive:
            end = archive.getmembers()[-1].offset_data + 512
        for length in (0, 100, 512, 700, 1024, end // 2, end // 2 // 512 * 512, end - 512, end - 1, end):
            tar.write_bytes(data[:length])
            with pytest.raises(ValueError, match=r"0\.tar is an incomplete tar"):
                open_dataset(root).for_training()

    def test_damage_in_the_middle_does_not_hide_later_samples(self, tmp_path):
        root = foreign(tmp_path)
        tar = root / "train" / "0.tar"
        with tarfile.open(tar) as archive:
            offset = archive.getmembers()[6].offset
        data = bytearray(tar.read_bytes())
        data[offset : offset + 20] = b"\xff" * 20
        tar.write_bytes(data)
        with pytest.raises(ValueError, match="is an incomplete tar"):
            open_dataset(root).for_training()

    def test_files_that_are_not_a_tar(self, tmp_path):
        root = foreign(tmp_path)
        for content in (b"hello", b"\x1f\x8b" + os.urandom(2000), os.urandom(20_000)):
            (root / "train" / "0.tar").write_bytes(content)
            with pytest.raises(ValueError, match="is an incomplete tar"):
                open_dataset(root).for_training()

    def test_an_empty_tar_among_others_and_alone(self, tmp_path):
        root = foreign(tmp_path)
        write_tar(root / "train" / "1.tar", [])
        assert len(open_dataset(root).for_training().train) == 6
        (root / "train" / "0.tar").unlink()
        with pytest.raises(ValueError, match="contain no images"):
            open_dataset(root).for_training()

    def test_a_sparse_member_that_claims_terabytes(self, tmp_path):
        root = foreign(tmp_path)
        info = tarfile.TarInfo("bomb.jpg")
        info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,10",
                            "GNU.sparse.size": str(10**13)}  # fmt: skip
        with tarfile.open(root / "train" / "0.tar", "a", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(info)
        assert len(open_dataset(root).for_training().train) == 6

    def test_a_bad_image_inside_is_a_bad_image(self, tmp_path):
        root = foreign(tmp_path)
        write_tar(root / "train" / "0.tar", [("a.jpg", b"no"), ("a.cls", b"0"), ("b.jpg", jpeg()), ("b.cls", b"1")])
        images = open_dataset(root).for_training().train
        with pytest.raises(BadImageError, match=r"train/0\.tar/a\.jpg cannot be used .* its content is not JPEG"):
            images.load(0)

    @pytest.mark.parametrize(
        "change",
        [
            lambda about: {**about, "format": "rexnet shards 9"},
            lambda about: {**about, "sides": {"train": [{"file": "../x.tar", "images": 1}]}},
            lambda about: {**about, "sides": {"train": [{"file": "/x.tar", "images": 1}]}},
            lambda about: {**about, "sides": {"train": [{"file": "x.tar", "images": "1"}]}},
            lambda about: {**about, "sides": {"../up": about["sides"]["train"]}},
            lambda about: {**about, "classes": [1]},
            lambda about: {**about, "sides": {}},
            lambda about: [],
            lambda about: {},
        ],
    )
    def test_a_foreign_shards_json(self, shards, change):
        path = shards / "shards.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        with pytest.raises(ValueError, match="was not written by `rexnet data shard`"):
            open_dataset(shards).for_training()

    def test_a_missing_tar_and_a_missing_sample(self, shards):
        tar = shards / "train" / "000001.tar"
        write_tar(tar, [("a.jpg", jpeg()), ("a.cls", b"0")])
        with pytest.raises(ValueError, match=r"has 27 images in train, but shards\.json states 36"):
            open_dataset(shards).for_training()
        tar.unlink()
        with pytest.raises(ValueError, match=r"000001\.tar is missing, but listed in shards\.json"):
            open_dataset(shards).for_training()
