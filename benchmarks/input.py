"""Training images per second of one core beside timm's loader with the same augmentations, and bare decoding as limit.

The original README's input: random resized crop to 224 pixels, flip, rand-m9-mstd0.5, erasing of pixels with
probability 0.2, from the ImageNet sample of the shared data. One process, one thread, seconds of processor time. All
take turns within every round, so that a drift of the machine hits all; a row holds the quartiles over the rounds, and
those of the ratio within a round.
"""

import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import tyro
from PIL import Image
from timm.data.dataset import ImageDataset
from timm.data.loader import create_loader

import records
from rexnet.data.config import AugmentConfig
from rexnet.data.image_files import image_files
from rexnet.data.image_set import FileImages
from rexnet.data.loaders import TrainBatches
from rexnet.data.preprocess import Preprocess
from rexnet.data.transforms import TrainTransform

SHARED = Path(os.environ.get("REXNET_SHARED", Path(__file__).parents[2] / "shared"))
SAMPLE = "imagenet_sample.tar"
PREPROCESS = Preprocess()
AUGMENT = AugmentConfig(auto_augment="rand-m9-mstd0.5", random_erasing=0.2, erasing_mode="pixel")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of the measurement."""

    rounds: int = 15
    """In each, every contender reads all images once."""
    batch_size: int = 128
    record: bool = True
    """Append the row to results/."""


Epoch = Callable[[int], int]
"""Reads an epoch, of the number given, and returns how many images it held."""


def ours(paths: list[str], batch_size: int, device: str) -> Epoch:
    images = FileImages(paths, np.zeros(len(paths)), ("image",))
    batches = TrainBatches(images, TrainTransform(PREPROCESS, AUGMENT), batch_size=batch_size, seed=0, device=device)
    return lambda epoch: sum(len(batch.images) for batch in batches.epoch(epoch))


def timms(folder: str, batch_size: int, device: str) -> Epoch:
    dataset: Any = ImageDataset(folder)
    loader = create_loader(
        dataset,
        PREPROCESS.image_size_px,
        batch_size,
        is_training=True,
        interpolation="random",
        auto_augment=AUGMENT.auto_augment,
        re_prob=AUGMENT.random_erasing,
        re_mode=AUGMENT.erasing_mode,
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=True,
        device=torch.device(device),
    )
    return lambda _: sum(len(images) for images, _ in loader)


def decoded(paths: list[str], decode: Callable[[str], Any]) -> Epoch:
    return lambda _: sum(decode(path) is not None for path in paths)


def with_pillow(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


def with_libjpeg_turbo(path: str) -> np.ndarray:
    return simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")


def measure(folder: str, options: Options) -> dict[str, Any]:
    paths, batch_size = image_files(folder), options.batch_size
    epochs = {
        "ours": ours(paths, batch_size, "cpu"),
        "timm": timms(folder, batch_size, "cpu"),
        # A device that computes nothing: what is left to the processor where a GPU finishes the batches.
        "ours_before_device": ours(paths, batch_size, "meta"),
        "timm_before_device": timms(folder, batch_size, "meta"),
        "pillow_decoding": decoded(paths, with_pillow),
        "libjpeg_turbo_decoding": decoded(paths, with_libjpeg_turbo),
    }
    speeds: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(-1, options.rounds):  # the first warms up
        for name in list(epochs) if number % 2 else reversed(epochs):
            start = time.process_time()
            speed = epochs[name](number + 1) / (time.process_time() - start)
            if number >= 0:
                speeds[name].append(speed)

    def ratio(above: str, below: str) -> list[float]:
        return records.quartiles([a / b for a, b in zip(speeds[above], speeds[below], strict=True)], digits=3)

    return {
        "what": "training input",
        "images": len(paths),
        "batch": batch_size,
        "rounds": options.rounds,
        "images_per_core_second": {name: records.quartiles(values, digits=1) for name, values in speeds.items()},
        "ratio_to_timm": ratio("ours", "timm"),
        "ratio_to_timm_before_device": ratio("ours_before_device", "timm_before_device"),
        "share_of_libjpeg_turbo_decoding": ratio("ours", "libjpeg_turbo_decoding"),
    }


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(SHARED / "data" / SAMPLE) as tar:
            tar.extractall(folder, filter="data")
        row = measure(str(Path(folder) / "val"), options)
    for name, value in row.items():
        print(f"{name}: {value}")
    if options.record:
        print(f"appended to {records.append('input_cpu', {**row, 'data': SAMPLE, **records.provenance('cpu')})}")


if __name__ == "__main__":
    main()
