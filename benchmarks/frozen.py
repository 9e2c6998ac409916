"""A frozen backbone's epochs: its features computed once, compared with running the whole network in every epoch.

Both ways train the same head on the same batches, without augmentation and with the same drop-out. An epoch is timed
with its evaluation and its checkpoints; computing the features is timed apart, once in PyTorch and once, where it runs,
in the native engine. The epochs on features are run before and after the slow ones. There are no published weights
without a network, so the backbone is first trained here on half of the classes.
"""

import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

import records
from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import open_dataset
from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import Batch, EvalBatches, TrainBatches
from rexnet.data.preprocess import Preprocess
from rexnet.data.transforms import TrainTransform
from rexnet.deploy.config import ValidateConfig
from rexnet.deploy.validate import validate
from rexnet.engines.native.library import why_missing
from rexnet.engines.native.network import open_features
from rexnet.training import checkpoint, classify
from rexnet.training.config import InputConfig, NetworkConfig, RunConfig, TrainConfig, TransferConfig
from rexnet.training.distributed import World
from rexnet.training.feature_file import FILE
from rexnet.training.freezing import prepare
from rexnet.training.frozen_features import FeatureEngine, freeze_backbone, head_task
from rexnet.training.loop import fit
from rexnet.training.recipes import finetune, scratch, small_image
from rexnet.training.run_folder import ENVIRONMENT, RunFolder, describe_environment
from rexnet.training.steps import Batches

SHARED = Path(os.environ.get("REXNET_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, how much of it, and what is trained on it."""

    archive: str
    train_per_class: int
    test_per_class: int
    start: TrainConfig
    """Makes the backbone."""


_FLOWERS = Source(
    archive="flowers17.tar",
    train_per_class=1000,
    test_per_class=1000,
    start=replace(
        scratch(),
        network=NetworkConfig(model="rexnet_050"),
        input=InputConfig(image_size=64),
        augment=AugmentConfig(crop_scale=(0.35, 1.0), label_smoothing=0.1),
    ),
)
_LARGE = {"network": NetworkConfig(model="rexnet_100"), "input": InputConfig(image_size=224)}
SOURCES = {
    "flowers17": _FLOWERS,
    "flowers17-large": replace(_FLOWERS, start=replace(_FLOWERS.start, **_LARGE)),
    "cifar10": Source(
        archive="cifar10.tar.gz",
        train_per_class=250,
        test_per_class=50,
        start=replace(small_image(), network=NetworkConfig(model="rexnet_050", stem_stride=1, drop_rate=0.0)),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of the measurement."""

    data: tyro.conf.Positional[Literal["flowers17", "flowers17-large", "cifar10"]]
    backbone_epochs: int = 2
    epochs: int = 2
    """Of the head, either way."""
    threads: int = 1
    """One where other work shares the cores: two threads that wait for each other are slower there than one."""


class ImagesAsEvaluated:
    """The batches of `order` without augmentation."""

    def __init__(self, images: ImageSet, preprocess: Preprocess, order: TrainBatches):
        self.images, self.preprocess, self.order = images, preprocess, order
        self.images_per_batch, self.num_images = order.images_per_batch, order.num_images

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        for positions in self.order.positions(epoch)[start_step:]:
            pixels = torch.stack([self.preprocess(self.images.load(index)) for index in positions.tolist()])
            yield Batch(pixels, torch.from_numpy(self.images.targets[positions]), torch.from_numpy(positions))


class Clocked:
    """Batches that note when each epoch begins."""

    def __init__(self, batches: Batches):
        self.batches = batches
        self.images_per_batch, self.num_images = batches.images_per_batch, batches.num_images
        self.began: list[float] = []

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Any]:
        self.began.append(time.time())
        return self.batches.epoch(epoch, start_step)


def unpack(source: Source, folder: Path) -> Path:
    """The first images of each class, in folder/all; those of every second class also, by links, in folder/half."""
    limits = {"train": source.train_per_class, "test": source.test_per_class}
    counts: dict[Path, int] = {}
    with tarfile.open(SHARED / "data" / source.archive) as archive:
        members = sorted((member for member in archive.getmembers() if member.isfile()), key=lambda each: each.name)
        for member in members:
            parent = Path(member.name).parent
            counts[parent] = counts.get(parent, 0) + 1
            if len(parent.parts) == 2 and counts[parent] <= limits[parent.parts[0]]:
                archive.extract(member, folder / "all", filter="data")
    for side in limits:
        for class_folder in sorted((folder / "all" / side).iterdir())[::2]:
            link = folder / "half" / side / class_folder.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(class_folder, target_is_directory=True)
    return folder / "all"


def make_backbone(source: Source, folder: Path, options: Options) -> dict[str, Any]:
    """Train on half of the classes and return the best row."""
    start = source.start
    config = replace(
        start,
        data=str(folder / "half"),
        schedule=replace(start.schedule, epochs=options.backbone_epochs, warmup_epochs=1.0),
        run=replace(start.run, device="cpu", threads=options.threads, output=str(folder / "backbone")),
    )
    return classify.train(config)["best"]


def head_config(source: Source, folder: Path, options: Options) -> TrainConfig:
    start, recipe = source.start, finetune()
    return replace(
        recipe,
        data=str(folder / "all"),
        network=replace(start.network, drop_rate=0.2, weights=str(folder / "backbone" / "best.pt")),
        input=start.input,
        augment=AugmentConfig(horizontal_flip=0.0, label_smoothing=0.1),
        schedule=replace(recipe.schedule, epochs=options.epochs),
        transfer=TransferConfig(freeze="all"),
        run=RunConfig(batch_size=32, device="cpu", threads=options.threads),
    )


def train_head(
    config: TrainConfig, run: RunFolder, *, on_features: bool, native: FeatureEngine | None = None
) -> dict[str, Any]:
    """Return the seconds of every epoch, seconds for the features, and the last row of metrics."""
    world = World(device=torch.device("cpu"))
    sets = open_dataset(config.data).for_training()
    torch.manual_seed(config.run.seed)
    model = classify.build_model(config.network, sets.classes)
    prepare(model, config.transfer, pretrained=True, images_per_batch=config.run.batch_size)
    preprocess, batch_size = config.input.preprocess(), config.run.batch_size
    transform = TrainTransform(preprocess, config.augment)
    order = TrainBatches(sets.train, transform, batch_size=batch_size, seed=config.run.seed)
    in_order = partial(EvalBatches, preprocess=preprocess, batch_size=batch_size)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write(ENVIRONMENT, describe_environment(world))
    began = time.perf_counter()
    if on_features:
        frozen = freeze_backbone(
            model, sets, order, in_order=in_order, config=config, run=run, world=world, native=native
        )
        trained, batches, val = frozen.head, Clocked(frozen.train), frozen.val
        task = head_task(classify.classification_task(sets, val, config, world=world), model)
    else:
        trained, batches, val = model, Clocked(ImagesAsEvaluated(sets.train, preprocess, order)), in_order(sets.val)
        task = classify.classification_task(sets, val, config, world=world)
    features_seconds = time.perf_counter() - began
    fit(trained, batches, task, config=config, run=run, world=world)
    # The curves, plotted once at the end, are not part of an epoch.
    ends = [*batches.began[1:], run.last.stat().st_mtime]
    seconds = [end - begin for begin, end in zip(batches.began, ends, strict=True)]
    return {"seconds": seconds, "features_seconds": features_seconds, "last": run.rows()[-1], "description": sets}


def measure(options: Options, folder: Path) -> dict[str, Any]:
    source = SOURCES[options.data]
    unpack(source, folder)
    backbone = make_backbone(source, folder, options)
    config = head_config(source, folder, options)
    runs = {name: RunFolder(folder / name) for name in ("native", "before", "slow", "after")}
    found = {}
    for name, run in runs.items():
        if name == "after":
            run.path.mkdir()
            shutil.copy(runs["before"].path / FILE, run.path / FILE)
        native = open_features if name == "native" else None
        found[name] = train_head(config, run, on_features=name != "slow", native=native)
    fast = found["before"]["seconds"] + found["after"]["seconds"]
    weights = {name: checkpoint.read(run.last)["state_dict"] for name, run in runs.items()}
    whole = validate(ValidateConfig(checkpoint=str(runs["before"].last), data=config.data, device="cpu"))
    return {
        "data": found["slow"]["description"].description.replace("all:", f"{options.data}:"),
        "model": config.network.model,
        "image_size_px": config.input.image_size,
        "batch": config.run.batch_size,
        "backbone": f"trained here on half of the classes, {options.backbone_epochs} epochs",
        "backbone_top1_percent": backbone["val_top1"],
        "epochs": options.epochs,
        "slow_epoch_seconds": [round(each, 3) for each in found["slow"]["seconds"]],
        "epoch_seconds": [round(each, 3) for each in fast],
        "features_seconds": round(found["before"]["features_seconds"], 3),
        "native_features_seconds": None if why_missing() else round(found["native"]["features_seconds"], 3),
        "stored_features_seconds": round(found["after"]["features_seconds"], 3),
        "ratio": round(statistics.median(found["slow"]["seconds"]) / statistics.median(fast), 1),
        "slow_top1_percent": found["slow"]["last"]["val_top1"],
        "top1_percent": found["before"]["last"]["val_top1"],
        "top1_percent_of_whole_network": whole["top1"],
        "largest_difference_of_weights": max(
            float((weights["slow"][key] - value).abs().max())
            for name in ("before", "native")
            for key, value in weights[name].items()
            if key.startswith("output.")
        ),
    }


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        row = measure(options, Path(folder))
    print({**row})
    print(f"appended to {records.append('frozen_cpu', {**row, **records.provenance('cpu')})}")


if __name__ == "__main__":
    main()
