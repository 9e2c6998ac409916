import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rexnet.data.datasets import open_dataset
from rexnet.data.datasets.shard_writing import ShardConfig, write_shards
from rexnet.data.datasets.shards import UNFINISHED_MARK
from rexnet.data.decode import open_image
from rexnet.errors import BadImageError
from tests.drawings import draw, draw_folder
from tests.webdataset_reading import read_with_webdataset


def shard(data, output, **options):
    return write_shards(ShardConfig(data=str(data), output=str(output), **{"workers": 0, **options}))


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def with_bytes(images) -> set[tuple[bytes, str]]:
    return {(images.load(i).tobytes(), images.classes[images.targets[i]]) for i in range(len(images))}


class TestWhatIsWritten:
    def test_same_images_and_classes_as_the_folder(self, image_folder, tmp_path):
        written = shard(image_folder, tmp_path / "out", images_per_shard=10)
        assert written.images == {"train": 36, "val": 12} and written.shards == {"train": 4, "val": 2}
        folder, tars = open_dataset(image_folder).for_training(), open_dataset(tmp_path / "out").for_training()
        assert tars.classes == folder.classes
        assert with_bytes(tars.train) == with_bytes(folder.train) and with_bytes(tars.val) == with_bytes(folder.val)
        about = json.loads((tmp_path / "out" / "shards.json").read_text())
        assert [tar["images"] for tar in about["sides"]["train"]] == [10, 10, 10, 6]
        assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\nfox\n"
        assert not list((tmp_path / "out").rglob("*unfinished*"))

    def test_webdataset_reads_bytes_and_labels(self, image_folder, tmp_path):
        shard(image_folder, tmp_path / "out", images_per_shard=10)
        tars = sorted((tmp_path / "out" / "train").glob("*.tar"))
        raw = read_with_webdataset(tars)
        assert len({sample["__key__"] for sample in raw}) == 36
        read = {(sample.get("jpg", sample.get("png")), int(sample["cls"])) for sample in raw}
        folder = open_dataset(image_folder).for_training().train
        assert read == {(Path(folder.name(i)).read_bytes(), folder.targets[i]) for i in range(36)}
        decoded = read_with_webdataset(tars, ("decode", "pil"), ("to_tuple", "jpg;png", "cls"))
        assert all(image.size == (48, 40) and isinstance(label, int) for image, label in decoded)

    def test_neighbours_are_of_mixed_classes_and_the_seed_decides(self, image_folder, tmp_path):
        for name, seed, workers in (("a", 0, 0), ("again", 0, 2), ("b", 1, 0)):
            shard(image_folder, tmp_path / name, seed=seed, images_per_shard=9, workers=workers)
        first = open_dataset(tmp_path / "a").for_training().train.targets[:9]
        assert len(set(first.tolist())) == 3
        tars = {name: {n: c for n, c in content(tmp_path / name).items() if n.endswith(".tar")} for name in "ab"}
        again = {n: c for n, c in content(tmp_path / "again").items() if n.endswith(".tar")}
        assert tars["a"] == again, "neither time nor the number of workers shows in a tar"
        assert tars["a"] != tars["b"]

    def test_size_limit(self, image_folder, tmp_path):
        written = shard(image_folder, tmp_path / "out", shard_size_mb=0.03)
        sizes = [path.stat().st_size for path in (tmp_path / "out" / "train").glob("*.tar")]
        assert written.shards["train"] == len(sizes) > 2
        assert max(sizes) <= 30_000 + tarfile.RECORDSIZE, "a tar is filled up to a whole record"

    def test_sets_without_files_become_png(self, tmp_path):
        shard("digits", tmp_path / "out")
        assert with_bytes(open_dataset(tmp_path / "out").for_training().val) == with_bytes(
            open_dataset("digits").for_training().val
        )

    def test_shards_can_be_resized_without_changing_the_files(self, image_folder, tmp_path):
        shard(image_folder, tmp_path / "one")
        shard(tmp_path / "one", tmp_path / "two", images_per_shard=5)
        one, two = (open_dataset(tmp_path / name).for_training().train for name in ("one", "two"))
        assert {one.source(i) for i in range(36)} == {two.source(i) for i in range(36)}

    def test_odd_names(self, image_folder, tmp_path):
        names = ["two words.jpg", "dots.in.name.jpg", "line\nbreak.JPG", "été 夏.png", os.fsdecode(b"b\xff.png")]
        names += ["same/1.png", "same2/1.png", "x" * 200 + ".png", "-.png", "__meta__.png", "q'\"$(x);&.png"]
        for number, name in enumerate(names):
            path = image_folder / "train" / "cat" / name
            path.parent.mkdir(exist_ok=True)
            draw("cat", 9000 + number).save(path)
        shard(image_folder, tmp_path / "out")
        folder, tars = open_dataset(image_folder).for_training(), open_dataset(tmp_path / "out").for_training()
        assert len(tars.train) == 36 + len(names) and with_bytes(tars.train) == with_bytes(folder.train)
        for name in [tars.train.name(i) for i in range(len(tars.train))]:
            base = name.removeprefix("train/000000.tar/")
            assert base.isascii() and base.isprintable() and base.count(".") == 1 and "/" not in base

    def test_webdataset_keeps_samples_with_odd_names_apart(self, tmp_path):
        for name in ("a.b.png", "a.c.png", "__meta__.png", "a b.png"):
            for label in ("one.1", "two 2"):
                (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
                draw("dog", len(name)).save(tmp_path / "in" / label / name)
        shard(tmp_path / "in", tmp_path / "out", val_fraction=0.25)
        samples = read_with_webdataset([tmp_path / "out" / "train" / "000000.tar"])
        assert len(samples) == 6 and all({"png", "cls"} <= set(sample) for sample in samples)


class TestBadImages:
    @pytest.fixture
    def damaged(self, image_folder):
        path = image_folder / "train" / "dog" / "3.png"
        path.write_bytes(path.read_bytes()[:300])
        return image_folder

    @pytest.mark.parametrize("workers", [0, 2])
    def test_error_names_the_file_and_a_second_start_succeeds(self, damaged, tmp_path, workers):
        with pytest.raises(BadImageError, match=r"dog/3\.png"):
            shard(damaged, tmp_path / "out", images_per_shard=9, workers=workers)
        with pytest.raises(ValueError, match="is incomplete"):
            open_dataset(tmp_path / "out").for_training()
        assert shard(damaged, tmp_path / "out", bad_image="skip").images["train"] == 35

    def test_skip_names_and_counts(self, damaged, tmp_path, caplog):
        written = shard(damaged, tmp_path / "out", bad_image="skip")
        assert written.images["train"] == 35 and [Path(name).name for name in written.skipped] == ["3.png"]
        assert "3.png" in caplog.text and len(open_dataset(tmp_path / "out").for_training().train) == 35

    def test_a_shard_without_a_good_image_is_not_written(self, damaged, tmp_path):
        written = shard(damaged, tmp_path / "out", bad_image="skip", images_per_shard=1)
        assert written.shards["train"] == 35 == len(list((tmp_path / "out" / "train").glob("*.tar")))
        assert len(open_dataset(tmp_path / "out").for_training().train) == 35

    def test_nothing_readable(self, image_folder, tmp_path):
        for path in image_folder.glob("val/*/*"):
            path.write_bytes(b"")
        with pytest.raises(ValueError, match="none of the 12 images in val can be read"):
            shard(image_folder, tmp_path / "out", bad_image="skip")


class TestOutput:
    def test_inside_the_data(self, image_folder):
        for output in (image_folder / "shards", image_folder, image_folder / "train" / ".." / "x"):
            before = content(image_folder)
            with pytest.raises(ValueError, match="lies in"):
                shard(image_folder, output)
            assert content(image_folder) == before

    def test_a_folder_with_other_files_is_refused(self, image_folder, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("years of work")
        with pytest.raises(ValueError, match=r"which contains thesis\.tex"):
            shard(image_folder, tmp_path / "out")
        assert content(tmp_path / "out") == {"thesis.tex": b"years of work"}
        with pytest.raises(ValueError, match=", a file"):
            shard(image_folder, tmp_path / "out" / "thesis.tex")

    def test_finished_shards_are_not_replaced(self, image_folder, tmp_path):
        shard(image_folder, tmp_path / "out")
        before = content(tmp_path / "out")
        with pytest.raises(ValueError, match="which contains"):
            shard(image_folder, tmp_path / "out", seed=2)
        assert content(tmp_path / "out") == before

    def test_a_marker_file_does_not_allow_removing_other_files(self, image_folder, tmp_path):
        (tmp_path / "out" / "train").mkdir(parents=True)
        (tmp_path / "out" / UNFINISHED_MARK).touch()
        (tmp_path / "out" / "train" / "mine.txt").write_text("x")
        with pytest.raises((ValueError, OSError)):
            shard(image_folder, tmp_path / "out")
        assert (tmp_path / "out" / "train" / "mine.txt").exists()

    def test_class_names_that_do_not_fit_into_a_line(self, tmp_path):
        draw_folder(tmp_path / "in")
        for side in ("train", "val"):
            shutil.move(tmp_path / "in" / side / "cat", tmp_path / "in" / side / "c\nat")
        with pytest.raises(ValueError, match="does not fit into a line"):
            shard(tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"images_per_shard": 0}, "--images-per-shard is 0; allowed: 1 or more"),
            ({"shard_size_mb": float("nan")}, "--shard-size-mb is nan"),
            ({"images_per_shard": 5, "shard_size_mb": 1}, "exclude each other"),
            ({"workers": -1}, "--workers is -1"),
        ],
    )
    def test_settings(self, options, said):
        with pytest.raises(ValueError, match=said):
            ShardConfig(data="a", output="b", **options)

    @pytest.mark.slow
    def test_a_killed_run_can_be_started_again(self, tmp_path):
        """SIGKILL of the main process, as the machine does when memory is short; workers must not write on."""
        random = np.random.default_rng(0)
        for label in ("a", "b"):
            (tmp_path / "in" / label).mkdir(parents=True)
            for number in range(150):
                pixels = random.integers(0, 255, (150, 150, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "in" / label / f"{number}.png")
        arguments = ("data", "shard", tmp_path / "in", tmp_path / "out", "--images-per-shard", 40, "--workers", 2)
        command = [sys.executable, "-m", "rexnet", *map(str, arguments)]
        kills = 0
        for kill_at in ("train/000001.tar", "train/000004.tar", "index-train.npz"):
            process = subprocess.Popen(command, stderr=subprocess.PIPE)
            deadline = time.monotonic() + 60
            while not (tmp_path / "out" / kill_at).exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if process.returncode == 0:
                break
            kills += 1
            with pytest.raises(ValueError, match="is incomplete"):
                open_dataset(tmp_path / "out").for_training()
        assert kills >= 2
        if process.returncode != 0:
            subprocess.run(command, check=True, capture_output=True)
        sets = open_dataset(tmp_path / "out").for_training()
        assert len(sets.train) == 240 and len(sets.val) == 60
        shard(tmp_path / "in", tmp_path / "straight", images_per_shard=40)
        straight, killed = content(tmp_path / "straight"), content(tmp_path / "out")
        assert straight.keys() == killed.keys()
        assert all(killed[name] == straight[name] for name in straight if not name.endswith(".npz"))
        for index in range(60):
            open_image(sets.val.source(index))
