from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from scipy.io import savemat

from rexnet.data.datasets import Dataset, open_dataset
from rexnet.data.datasets.named import _TORCHVISION_SETS
from rexnet.data.splits import stratified_split
from tests.tars import names_of


class TestSplit:
    @pytest.mark.parametrize("seed", range(5))
    def test_properties(self, seed):
        random = np.random.default_rng(seed)
        targets = random.integers(0, 30, 400)
        fraction = random.uniform(0.01, 0.99)
        train, val = stratified_split(targets, fraction, seed)
        assert sorted([*train, *val]) == list(range(400))
        for label in np.unique(targets):
            count, in_val = (targets == label).sum(), (targets[val] == label).sum()
            assert count == 1 or 1 <= in_val <= count - 1
            assert abs(in_val - count * fraction) <= 1


class TestDigits:
    def test_content(self):
        sets = open_dataset("digits").for_training(seed=5)
        assert sets.description == "digits: 1,438 train / 359 val images of 10 classes (its own split)"
        assert sets.classes == tuple("0123456789")
        names = names_of(sets.train) + names_of(sets.val)
        assert sorted(names) == sorted(f"digits/{number}" for number in range(1797))
        image = sets.train.load(0)
        assert image.mode == "RGB" and image.size == (8, 8)
        assert max(np.asarray(sets.train.load(index)).max() for index in range(20)) == 255
        assert np.bincount(sets.val.targets).min() >= 34

    def test_the_validation_digits_are_the_same_for_every_seed(self):
        assert names_of(open_dataset("digits").for_training(seed=1).val) == names_of(
            open_dataset("digits").for_training(seed=2).val
        )

    def test_a_folder_of_that_name_needs_a_path(self, image_folder, monkeypatch):
        image_folder.rename(image_folder.parent / "digits")
        monkeypatch.chdir(image_folder.parent)
        assert len(open_dataset("digits").for_training().classes) == 10
        assert len(open_dataset("./digits").for_training().classes) == 3


class FakeTorchvision:
    """Stands for the data sets whose files are not here: what torchvision gives once they are loaded."""

    calls: list[dict]

    def __init__(self, attributes):
        self.attributes, self.calls = attributes, []
        self.__name__ = "CIFAR10"

    def __call__(self, folder, **options):
        self.calls.append({"folder": folder, **options})
        if not options.get("download") and len(self.calls) == 1:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        return SimpleNamespace(**self.attributes)


class TestTorchvision:
    def test_a_failed_download_is_reported_in_one_sentence(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        for name in ("cifar10", "CIFAR10", "svhn"):
            with pytest.raises(ValueError, match=r"cannot be downloaded .* run torchvision.datasets") as caught:
                open_dataset(f"torchvision/{name}").for_training()
            assert str(tmp_path / "datasets") in str(caught.value) and "\n" not in str(caught.value)

    def test_unknown_name_lists_the_known(self):
        for function in (Dataset.for_training, lambda dataset: dataset.small_images):
            with pytest.raises(ValueError, match=r"torchvision/cifar11 is not one of .* cifar10, cifar100"):
                function(open_dataset("torchvision/cifar11"))

    @pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
    def test_arrays(self, tmp_path, monkeypatch, layout):
        pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
        data = {"NHWC": pixels, "NCHW": pixels.transpose(0, 3, 1, 2), "NHW": torch.tensor(pixels[..., 0])}[layout]
        labels = {"labels" if layout == "NCHW" else "targets": np.array([0, 1, 2, 0, 1, 2])}
        fake = FakeTorchvision({"data": data, **labels, **({} if layout == "NCHW" else {"classes": ["x", "y", "z"]})})
        monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        sets = open_dataset("torchvision/cifar10").for_training()
        assert [call.get("download", False) for call in fake.calls] == [False, True, False]
        assert [call["train"] for call in fake.calls] == [True, True, False]
        assert sets.classes == (("0", "1", "2") if layout == "NCHW" else ("x", "y", "z"))
        expected = pixels[4] if layout != "NHW" else np.repeat(pixels[4, :, :, :1], 3, axis=2)
        np.testing.assert_array_equal(np.asarray(sets.train.load(4)), expected)
        assert sets.description == "torchvision/cifar10: 6 train / 6 val images of 3 classes (its own split)"

    @pytest.mark.parametrize("attribute", ["_images", "_image_files"])
    def test_files_are_decoded_by_open_image(self, image_folder, monkeypatch, attribute):
        path = image_folder / "train" / "cat" / "0.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (20, 10)).save(path, exif=exif)
        fake = FakeTorchvision({attribute: [path], "_labels": [0], "classes": ["cat"]})
        monkeypatch.setattr(torchvision.datasets, "Food101", fake)
        images = open_dataset("torchvision/food101").for_training().train
        assert images.load(0).size == (10, 20) and images.name(0) == str(path)

    @pytest.mark.parametrize("name", ["fgvc_aircraft", "FGVC_Aircraft", "fgvcaircraft", "fgvcAircraft"])
    def test_both_spellings(self, monkeypatch, name):
        fake = FakeTorchvision({"_image_files": ["a.jpg"], "_labels": [0], "classes": ["707-320"]})
        monkeypatch.setattr(torchvision.datasets, "FGVCAircraft", fake)
        description = open_dataset(f"torchvision/{name}").for_training().description
        assert description.endswith("(its own split: trainval, test)")
        assert [call["split"] for call in fake.calls] == ["trainval", "trainval", "test"]

    def test_flowers102_trains_on_train_and_val_and_validates_on_test(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        sides = {"trnid": [2, 5], "valid": [1, 8], "tstid": [3, 4, 6, 7]}
        root = tmp_path / "datasets" / "flowers-102"
        (root / "jpg").mkdir(parents=True)
        savemat(root / "setid.mat", sides)
        savemat(root / "imagelabels.mat", {"labels": [1, 2, 1, 2, 2, 1, 2, 1]})
        monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
        sets = open_dataset("torchvision/flowers102").for_training()
        assert [Path(name).name for name in names_of(sets.train)] == [f"image_{n:05d}.jpg" for n in (2, 5, 1, 8)]
        assert sets.train.targets.tolist() == [1, 1, 0, 0] and sets.val.targets.tolist() == [0, 1, 0, 1]
        assert "4 train / 4 val images" in sets.description and "train + val, test" in sets.description

    def test_cars_are_read_from_their_folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        for name in ("stanford_cars", "StanfordCars"):
            with pytest.raises(ValueError, match=r"cannot be downloaded .*: the original site is gone: get") as caught:
                open_dataset(f"torchvision/{name}").for_training()
            assert "\n" not in str(caught.value)
        root = tmp_path / "datasets" / "stanford_cars"
        for folder in ("devkit", "cars_train", "cars_test"):
            (root / folder).mkdir(parents=True)
        rows = [{"fname": f"0000{number}.jpg", "class": number} for number in (2, 1, 2)]
        savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(["Acura", "BMW"], dtype=object)})
        savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": rows})
        savemat(root / "cars_test_annos_withlabels.mat", {"annotations": rows[:2]})
        sets = open_dataset("torchvision/stanford_cars").for_training()
        assert sets.classes == ("Acura", "BMW") and sets.train.targets.tolist() == [1, 0, 1]
        assert Path(sets.val.name(0)).parts[-2:] == ("cars_test", "00002.jpg")

    def test_names_exist_in_torchvision(self):
        for row in _TORCHVISION_SETS.values():
            assert hasattr(torchvision.datasets, row.class_name)
