"""Opening of datasets: from the argument DATA to labelled images."""

from rexnet.data.datasets.dataset import Dataset, Split
from rexnet.data.datasets.opening import check_images, hub_name, is_remote, open_dataset, open_images, with_unlabelled
from rexnet.data.splits import ImageSets

__all__ = [
    "Dataset",
    "ImageSets",
    "Split",
    "check_images",
    "hub_name",
    "is_remote",
    "open_dataset",
    "open_images",
    "with_unlabelled",
]
