"""Datasets with a name instead of a folder: scikit-learn's digits and those of torchvision."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rexnet.data.image_set import ArrayImages, FileImages, ImageSet
from rexnet.data.splits import stratified_split

logger = logging.getLogger(__name__)

DIGITS = "digits"
_PREFIX = "torchvision/"
_DIGITS_SPLIT_SEED = 0


class _TorchvisionSet(NamedTuple):
    class_name: str
    train: tuple[dict[str, Any], ...]
    """A torchvision dataset, with its constructor's options for each part of the training images."""
    val: dict[str, Any]
    small: bool

    @property
    def split(self) -> str:
        """Return the names of the parts, if they have names."""
        names = [str(part["split"]) for part in (*self.train, self.val) if "split" in part]
        return f"its own split: {' + '.join(names[:-1])}, {names[-1]}" if names else "its own split"


_TORCHVISION_SETS = {
    "cifar10": _TorchvisionSet("CIFAR10", ({"train": True},), {"train": False}, True),
    "cifar100": _TorchvisionSet("CIFAR100", ({"train": True},), {"train": False}, True),
    "mnist": _TorchvisionSet("MNIST", ({"train": True},), {"train": False}, True),
    "fashionmnist": _TorchvisionSet("FashionMNIST", ({"train": True},), {"train": False}, True),
    "kmnist": _TorchvisionSet("KMNIST", ({"train": True},), {"train": False}, True),
    "svhn": _TorchvisionSet("SVHN", ({"split": "train"},), {"split": "test"}, True),
    "stl10": _TorchvisionSet("STL10", ({"split": "train"},), {"split": "test"}, False),
    "flowers102": _TorchvisionSet("Flowers102", ({"split": "train"}, {"split": "val"}), {"split": "test"}, False),
    "food101": _TorchvisionSet("Food101", ({"split": "train"},), {"split": "test"}, False),
    "oxfordiiitpet": _TorchvisionSet("OxfordIIITPet", ({"split": "trainval"},), {"split": "test"}, False),
    "dtd": _TorchvisionSet("DTD", ({"split": "train"},), {"split": "val"}, False),
    "fgvc_aircraft": _TorchvisionSet("FGVCAircraft", ({"split": "trainval"},), {"split": "test"}, False),
    "stanford_cars": _TorchvisionSet("StanfordCars", ({"split": "train"},), {"split": "test"}, False),
}
# torchvision's own spelling, without the underscore.
_ALIASES = {name.replace("_", ""): name for name in _TORCHVISION_SETS if "_" in name}

_BY_HAND = {
    "StanfordCars": (
        "the original site is gone: get cars_train, cars_test, devkit (cars_meta.mat, cars_train_annos.mat) and "
        "cars_test_annos_withlabels.mat from a copy of the dataset and put them into the folder stanford_cars there"
    )
}


def is_named_set(data: str | Path) -> bool:
    return isinstance(data, str) and (data == DIGITS or data.startswith(_PREFIX))


def named_set_is_small(data: str) -> bool:
    """Return whether the images of a named set have at most 64 pixels a side. Raise ValueError for an unknown name."""
    return data == DIGITS or _torchvision_set(data).small


def load_named_set(data: str) -> tuple[ImageSet, ImageSet]:
    """Load (train, validation). Raise ValueError for an unknown name, and if files are missing and cannot be
    downloaded."""
    if data == DIGITS:
        return _digits()
    row = _torchvision_set(data)
    parts = [_load_torchvision(data, row.class_name, options) for options in (*row.train, row.val)]
    train = parts[0] if len(row.train) == 1 else _join([part for part in parts[:-1] if isinstance(part, FileImages)])
    return train, parts[-1]


def describe_split(data: str) -> str:
    """Describe how a named set is divided, such as "its own split: train + val, test"."""
    return "its own split" if data == DIGITS else _torchvision_set(data).split


def _digits() -> tuple[ImageSet, ImageSet]:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 16 is white
    # The split does not depend on the user's seed, so all runs and later validations use the same digits.
    train, val = (
        ArrayImages(pixels[chosen], digits.target[chosen], tuple("0123456789"), label=DIGITS, numbers=chosen)
        for chosen in stratified_split(digits.target, 0.2, _DIGITS_SPLIT_SEED)
    )
    return train, val


def _torchvision_set(data: str) -> _TorchvisionSet:
    name = data.removeprefix(_PREFIX).lower()
    name = _ALIASES.get(name, name)
    if name not in _TORCHVISION_SETS:
        raise ValueError(f"{data} is not one of the torchvision sets known here: {', '.join(_TORCHVISION_SETS)}")
    return _TORCHVISION_SETS[name]


def _load_torchvision(data: str, class_name: str, options: dict[str, Any]) -> ImageSet:
    from torch.hub import get_dir
    from torchvision import datasets

    folder = str(Path(get_dir()) / "datasets")
    factory = getattr(datasets, class_name)
    try:
        dataset = factory(folder, **options)
    except RuntimeError:  # torchvision raises this for missing files
        dataset = _download(data, factory, folder=folder, options=options)
    label = f"{data} {' '.join(option for option in options.values() if isinstance(option, str))}".rstrip()
    if hasattr(dataset, "_samples"):
        paths, labels = zip(*dataset._samples, strict=True)
        return FileImages(paths, labels, dataset.classes)
    targets = np.asarray(_first_attribute(dataset, "targets", "labels", "_labels"), dtype=np.int64)
    classes = getattr(dataset, "classes", None) or [str(number) for number in range(int(targets.max()) + 1)]
    if hasattr(dataset, "data"):
        pixels = np.asarray(dataset.data)
        if pixels.ndim == 4 and pixels.shape[1] == 3:
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        return ArrayImages(pixels, targets, classes, label=label, numbers=np.arange(len(pixels)))
    paths = [str(path) for path in _first_attribute(dataset, "_image_files", "_images")]
    return FileImages(paths, targets, classes)


def _download(data: str, factory: Any, *, folder: str, options: dict[str, Any]) -> Any:
    logger.info("%s is not in %s, downloading it", data, folder)
    try:
        return factory(folder, download=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        remedy = _BY_HAND.get(
            factory.__name__,
            f"run torchvision.datasets.{factory.__name__}(FOLDER, download=True) on a machine with internet access, "
            "and copy the content of FOLDER there",
        )
        raise ValueError(f"{data} is not in {folder} and cannot be downloaded ({reason}): {remedy}") from error


def _join(parts: list[FileImages]) -> FileImages:
    paths = [part.name(index) for part in parts for index in range(len(part))]
    return FileImages(paths, np.concatenate([part.targets for part in parts]), parts[0].classes)


def _first_attribute(dataset: Any, *names: str) -> Any:
    """Return the first of these attributes that exists: torchvision's datasets name their labels and files
    differently."""
    return next(getattr(dataset, name) for name in names if hasattr(dataset, name))
