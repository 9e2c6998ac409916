import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import open_dataset
from rexnet.data.loaders import EvalBatches, TrainBatches
from rexnet.data.preprocess import Preprocess
from rexnet.data.transforms import TrainTransform
from tests.drawings import draw
from tests.tars import LETTERS, foreign, jpeg, names_of, write_tar
from tests.webdataset_reading import read_with_webdataset


class TestReading:
    def test_splits_and_classes_are_found(self, shards):
        sets = open_dataset(shards).for_training()
        assert sets.description == "shards: 36 train / 12 val images of 3 classes (train/, val/)"
        assert sets.train.name(0).startswith("train/000000.tar/00000000-")
        assert np.bincount(sets.train.targets).tolist() == [12, 12, 12]
        assert open_dataset(shards).small_images

    def test_validation_matches_by_name(self, shards):
        images = open_dataset(shards).for_measuring(("fox", "emu", "cat", "dog"))
        assert len(images) == 12 and images.missing_classes == ("emu",)
        plain = open_dataset(shards).for_training().val
        assert [images.classes[t] for t in images.targets] == [plain.classes[t] for t in plain.targets]
        with pytest.raises(ValueError, match="does not know: cat, fox"):
            open_dataset(shards).for_measuring(("dog",))

    def test_pickles_small_and_reads_in_a_copy(self, shards):
        images = open_dataset(shards).for_training().train
        data = pickle.dumps(images)
        assert len(data) < 10_000
        assert pickle.loads(data).load(7).tobytes() == images.load(7).tobytes()

    @pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
    def test_two_ranks_with_workers_read_each_image_once(self, shards, start_method):
        images = open_dataset(shards).for_training().val
        preprocess = Preprocess(image_size_px=32)
        seen = []
        for rank in (0, 1):
            batches = EvalBatches(
                images, preprocess, batch_size=5, workers=1, rank=rank, world_size=2, start_method=start_method
            )
            seen += [index for batch in batches for index in batch.indices.tolist()]
        assert sorted(seen) == list(range(12))

    def test_an_epoch_is_the_same_from_shards_as_from_files_in_the_same_order(self, shards, tmp_path):
        images = open_dataset(shards).for_training().train
        for index in range(len(images)):
            path = tmp_path / "files" / "train" / images.classes[images.targets[index]] / Path(images.name(index)).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images.source(index))
        files = open_dataset(tmp_path / "files").for_training().train
        place = {Path(name).name: index for index, name in enumerate(names_of(images))}
        both = np.concatenate([[place[Path(name).name] for name in (*names_of(files),)]])
        reordered = images.subset(both)
        transform = TrainTransform(Preprocess(image_size_px=32), AugmentConfig())
        epochs = [
            list(TrainBatches(source, transform, batch_size=8, seed=5, workers=workers).epoch(1))
            for source, workers in ((files, 0), (reordered, 2))
        ]
        for mine, theirs in zip(*epochs, strict=True):
            assert mine.images.equal(theirs.images) and mine.targets.equal(theirs.targets)

    def test_two_ranks_train_on_every_image_once(self, shards):
        images = open_dataset(shards).for_training().train
        transform = TrainTransform(Preprocess(image_size_px=32), AugmentConfig())
        seen = []
        for rank in (0, 1):
            batches = TrainBatches(images, transform, batch_size=6, seed=1, rank=rank, world_size=2)
            seen += [index for batch in batches.epoch(0) for index in batch.indices.tolist()]
        assert sorted(seen) == list(range(36))

    def test_a_folder_with_a_tar_beside_its_class_folders_stays_a_folder(self, image_folder):
        write_tar(image_folder / "backup.tar", [])
        write_tar(image_folder / "train" / "backup.tar", [])
        assert "36 train" in open_dataset(image_folder).for_training().description


class TestTarsOfOthers:
    def test_webdatasets_own_writer(self, tmp_path):
        webdataset = pytest.importorskip("webdataset")
        for side in ("train", "val"):
            (tmp_path / "set" / side).mkdir(parents=True)
            pattern = str(tmp_path / "set" / side / "part-%04d.tar")
            with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
                for number in range(10):
                    writer.write({"__key__": f"sub/k{number}", "png": draw("cat", number), "cls": number % 3})
        (tmp_path / "set" / "classes.txt").write_text("x\ny\nz\n")
        images = open_dataset(tmp_path / "set").for_training().train
        assert images.targets.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0] and images.classes == ("x", "y", "z")
        assert images.name(9) == "train/part-0002.tar/sub/k9.png"
        raw = read_with_webdataset(sorted((tmp_path / "set" / "train").glob("*.tar")))
        assert [images.source(i) for i in range(10)] == [sample["png"] for sample in raw]

    @pytest.mark.parametrize(
        ("label", "classes"),
        [
            (lambda n: ("cls", str(n % 2)), LETTERS),
            (lambda n: ("cls", f"{n % 2}\n"), LETTERS),
            (lambda n: ("cls", "ab"[n % 2]), LETTERS),
            (lambda n: ("cls", "ab"[n % 2]), None),
            (lambda n: ("txt", "ab"[n % 2]), None),
            (lambda n: ("json", json.dumps({"label": n % 2, "caption": "x"})), LETTERS),
            (lambda n: ("json", json.dumps({"class": "ab"[n % 2]})), None),
            (lambda n: ("JSON", json.dumps(n % 2)), LETTERS),
            (lambda n: ("json", json.dumps({"label": float(n % 2)})), LETTERS),
            (lambda n: ("json", json.dumps({"label": float("nan"), "class": "ab"[n % 2]})), None),
        ],
    )
    def test_labels(self, tmp_path, label, classes):
        images = open_dataset(foreign(tmp_path, label, classes=classes)).for_training().train
        assert images.classes == LETTERS and images.targets.tolist() == [0, 1] * 3

    @pytest.mark.parametrize(
        ("label", "classes", "said"),
        [
            (lambda n: ("xml", "<a/>"), LETTERS, "s0.jpg in .* has no label; each image needs a .cls"),
            (lambda n: ("json", '{"caption": "x"}'), LETTERS, "has no label"),
            (lambda n: ("json", "{"), LETTERS, "has no label"),
            (lambda n: ("json", "[" * 100_000), LETTERS, "has no label"),
            (lambda n: ("cls", ""), LETTERS, "has no label"),
            (lambda n: ("cls", str(n % 2)), None, "the labels in .* are numbers, such as 0; put a classes.txt"),
            (lambda n: ("cls", str(n)), LETTERS, "the label '2', which is not one of its 2 classes"),
            (lambda n: ("cls", "-1"), LETTERS, "the label '-1'"),
            (lambda n: ("cls", "é\nx"), LETTERS, "the label 'é"),
            (lambda n: ("cls", "0"), LETTERS, "no images of the class b"),
            (lambda n: ("cls", "a"), None, "has one class, a: two or more"),
            (lambda n: ("cls", "0"), ("a", "a"), "must have one class name per line, each once"),
            (lambda n: ("cls", "0"), ("a", ""), "must have one class name per line, each once"),
        ],
    )
    def test_unusable_labels(self, tmp_path, label, classes, said):
        with pytest.raises(ValueError, match=said) as caught:
            open_dataset(foreign(tmp_path, label, classes=classes)).for_training()
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize("where", ["", "train"])
    def test_without_a_split_some_become_the_validation_split(self, tmp_path, where, caplog):
        root = foreign(tmp_path / "set", count=20)
        shutil.move(root / "train" / "0.tar", root / "x.tar")
        shutil.rmtree(root / "val")
        shutil.rmtree(root / "train")
        if where:
            (root / where).mkdir()
            shutil.move(root / "x.tar", root / where)
        sets = open_dataset(root).for_training(val_fraction=0.3, seed=2)
        assert np.bincount(sets.val.targets).tolist() == [3, 3] and len(sets.train) == 14
        assert not set(names_of(sets.train)) & set(names_of(sets.val))
        assert "30 % of each class for validation, seed 2" in sets.description
        assert len(open_dataset(root).for_measuring(LETTERS)) == 20

    def test_splits_in_the_names_of_tars(self, tmp_path):
        for name in ("set-train-000.tar", "set-train-001.tar", "set-val-000.tar"):
            members = [
                (f"{name}{n}.{end}", data) for n in range(2) for end, data in (("jpg", jpeg(n)), ("cls", b"%d" % n))
            ]
            write_tar(tmp_path / name, members)
        (tmp_path / "classes.txt").write_text("a\nb\n")
        sets = open_dataset(tmp_path).for_training()
        tars = [{name.split("/")[0] for name in names_of(images)} for images in (sets.train, sets.val)]
        assert tars == [{"set-train-000.tar", "set-train-001.tar"}, {"set-val-000.tar"}]
        write_tar(tmp_path / "more-train_val.tar", [("x.jpg", jpeg()), ("x.cls", b"0")])
        with pytest.raises(ValueError, match=r"has more-train_val\.tar and set-train-000\.tar; put a split into"):
            open_dataset(tmp_path).for_training()

    def test_a_tar_beside_the_splits_is_not_part_of_the_data(self, tmp_path):
        root = foreign(tmp_path / "set")
        (root / "backup.tar").write_bytes(b"anything")
        assert len(open_dataset(root).for_training().train) == 6

    def test_images_outside_any_tar(self, tmp_path, caplog):
        root = foreign(tmp_path / "set")
        (root / "train" / "0.tar").rename(root / "train" / "0.TAR")
        (root / "train" / "preview.jpg").write_bytes(jpeg())
        assert len(open_dataset(root).for_training().train) == 6
        assert "images outside the tars are skipped: preview.jpg" in caplog.text
        (root / "val" / "0.tar").rename(root / "val" / "0.tar.gz")
        with pytest.raises(ValueError, match=r"val/0\.tar\.gz is compressed"):
            open_dataset(root).for_training()
        shutil.rmtree(root / "val")
        (root / "val" / "a").mkdir(parents=True)
        (root / "val" / "a" / "x.jpg").write_bytes(jpeg())
        with pytest.raises(ValueError, match="val has no tars, which another split has"):
            open_dataset(root).for_training()

    def test_a_class_without_validation_images_is_logged(self, tmp_path, caplog):
        root = foreign(tmp_path / "set")
        write_tar(root / "val" / "0.tar", [("x.jpg", jpeg()), ("x.cls", b"1")])
        assert open_dataset(root).for_training().val.missing_classes == ("a",) and "never validated: a" in caplog.text

    def test_single_images_cannot_be_split(self, tmp_path):
        members = [("x.jpg", jpeg()), ("x.cls", b"a"), ("y.jpg", jpeg()), ("y.cls", b"b")]
        write_tar(tmp_path / "set" / "0.tar", members)
        with pytest.raises(ValueError, match=r"no class in .* has two images"):
            open_dataset(tmp_path / "set").for_training()

    def test_only_a_validation_split(self, tmp_path):
        root = foreign(tmp_path / "set")
        shutil.rmtree(root / "train")
        assert len(open_dataset(root).for_measuring(LETTERS)) == 6
        with pytest.raises(ValueError, match="has val/ but no train/"):
            open_dataset(root).for_training()

    @pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_tar_formats_and_long_names(self, tmp_path, format):
        stems = ["p" * 90 + "/" + "q" * 60, "./dot", "sp ace", "dir.with.dots/x"]
        if format != tarfile.USTAR_FORMAT:
            stems += ["n" * 300, "été/夏", "é" * 120]
        members = [(f"{s}.{x}", d) for s in stems for x, d in (("jpg", jpeg()), ("cls", b"0"))]
        for side in ("train", "val"):
            write_tar(tmp_path / side / "0.tar", [*members, ("z.jpg", jpeg()), ("z.cls", b"1")], format=format)
        (tmp_path / "classes.txt").write_text("a\nb\n")
        images = open_dataset(tmp_path).for_training().train
        assert len(images) == len(stems) + 1
        for index in range(len(images)):
            assert images.load(index).size == (48, 40)
        assert [name.removeprefix("train/0.tar/").removesuffix(".jpg") for name in names_of(images)] == [*stems, "z"]

    def test_members_that_lead_out_of_the_folder_are_never_followed(self, tmp_path, caplog):
        secret = tmp_path / "secret.jpg"
        secret.write_bytes(jpeg(77))
        link, hard, device = (tarfile.TarInfo(f"{name}.jpg") for name in ("link", "hard", "device"))
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        hard.type, hard.linkname = tarfile.LNKTYPE, "../../secret.jpg"
        device.type = tarfile.CHRTYPE
        members = [link, ("link.cls", b"0"), hard, device, ("/etc/x.jpg", jpeg()), ("/etc/x.cls", b"0")]
        members += [("../../out.jpg", jpeg()), ("../../out.cls", b"1")]
        for side in ("train", "val"):
            write_tar(tmp_path / "set" / side / "0.tar", members)
        (tmp_path / "set" / "classes.txt").write_text("a\nb\n")
        before = sorted(tmp_path.rglob("*"))
        images = open_dataset(tmp_path / "set").for_training().train
        assert len(images) == 2 and "skipped links or devices: 3, labels without an image: 1" in caplog.text
        assert all(images.load(i).size == (48, 40) for i in range(2))
        made = set(tmp_path.rglob("*")) - set(before)
        assert {path.name for path in made} == {"index-train.npz", "index-val.npz"}

    @pytest.mark.parametrize("second", ["a.png", "a.JPG", "a.jpg", "a.cls"])
    def test_a_sample_has_one_image_and_one_label_of_a_kind(self, tmp_path, second):
        root = foreign(tmp_path)
        write_tar(root / "train" / "0.tar", [("a.jpg", jpeg()), ("a.cls", b"0"), (second, jpeg())])
        with pytest.raises(ValueError, match=second):
            open_dataset(root).for_training()

    def test_dots_in_names(self, tmp_path, caplog):
        """Every image of a folder of these names is in the tar of it, whatever the order of the members."""
        stems = ["shot_2024.05.01", "shot_2024.05.02", "shot_2024.06.01", "plain", "v1.2", "v1.3"]
        labels = [(f"{stem}.cls", b"%d" % (number % 2)) for number, stem in enumerate(stems)]
        for split, members in (("train", [*labels, *((f"{stem}.jpg", jpeg()) for stem in stems)]), ("val", [])):
            pairs = [
                pair for stem, label in zip(stems, labels, strict=True) for pair in ((f"{stem}.jpg", jpeg()), label)
            ]
            write_tar(tmp_path / split / "0.tar", members or pairs)
        (tmp_path / "classes.txt").write_text("a\nb\n")
        sets = open_dataset(tmp_path).for_training()
        for images in (sets.train, sets.val):
            assert [name.removeprefix("train/").removeprefix("val/") for name in names_of(images)] == [
                f"0.tar/{stem}.jpg" for stem in stems
            ]
            assert images.targets.tolist() == [0, 1] * 3
        assert "skipped" not in caplog.text

    def test_hidden_members_are_not_images(self, tmp_path, caplog):
        """bsdtar on macOS puts ._NAME with the attributes of a file before it."""
        hidden = ["._000.jpg", "._000.cls", ".DS_Store", "__MACOSX/._000.jpg", ".thumbs/000.jpg", "sub/._1.jpg"]
        members = [(name, b"\0\5\x16\7") for name in hidden]
        members += [(f"./sub/{n:03d}.{x}", d) for n in range(2) for x, d in (("jpg", jpeg()), ("cls", b"%d" % n))]
        for split in ("train", "val"):
            write_tar(tmp_path / split / "0.tar", members)
            write_tar(tmp_path / split / "._0.tar", [])
        (tmp_path / "classes.txt").write_text("a\nb\n")
        assert open_dataset(tmp_path).for_training().train.targets.tolist() == [0, 1] and "skipped" not in caplog.text

    def test_class_names_are_matched_in_unicode_normal_form(self, tmp_path):
        members = [("a.jpg", jpeg()), ("a.cls", "cafe\u0301".encode()), ("b.jpg", jpeg()), ("b.json", b'"th\\u00e9"')]
        write_tar(tmp_path / "train" / "0.tar", members)
        write_tar(tmp_path / "val" / "0.tar", [("a.jpg", jpeg()), ("a.txt", "\ufeffcaf\u00e9".encode())])
        (tmp_path / "classes.txt").write_bytes("\ufeffthe\u0301\r\ncaf\u00e9\n".encode())
        sets = open_dataset(tmp_path).for_training()
        assert sets.classes == ("th\u00e9", "caf\u00e9")
        assert sets.train.targets.tolist() == [1, 0] and sets.val.targets.tolist() == [1]

    def test_masks_and_other_files_beside_the_image(self, tmp_path, caplog):
        root = foreign(tmp_path)
        one = [("a.jpg", jpeg()), ("a.seg.png", jpeg()), ("a.seg.left.png", jpeg()), ("a.cls", b"0"), ("README", b"x")]
        write_tar(root / "train" / "0.tar", [*one, ("b.cls", b"1"), ("b.jpg", jpeg())])
        assert open_dataset(root).for_training().train.targets.tolist() == [0, 1]
        assert "skipped images beside a labelled one: 2" in caplog.text
