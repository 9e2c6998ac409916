"""Architecture apart from recipe: ReXNet, MobileNetV2 and EfficientNet-B0 through the same loop, recipe, data and
order of images, at the same multiply-accumulates, over several seeds, on CIFAR-10.

The rivals are timm's networks with their channels scaled; every stem has stride 1. Every ReXNet has the width at which
its cost is that of the rivals' mean. Runs already in the results are skipped, so a second call continues.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from timm.models.efficientnet import _gen_efficientnet, _gen_mobilenet_v2
from torch import nn

import records
from rexnet.data.datasets import open_dataset
from rexnet.data.image_set import FileImages
from rexnet.data.loaders import EvalBatches, TrainBatches
from rexnet.data.transforms import TrainTransform
from rexnet.models.cost import measure_cost
from rexnet.models.factory import create_model
from rexnet.training.classification_loss import classification_loss
from rexnet.training.config import NetworkConfig, TrainConfig
from rexnet.training.distributed import World
from rexnet.training.evaluation import evaluate
from rexnet.training.loop import Task, fit
from rexnet.training.recipes import small_image
from rexnet.training.run_folder import RunFolder

NAME = "control_cpu"
MOBILENET_WIDTH, EFFICIENTNET_WIDTH = 0.75, 0.7
IMAGE_PX = 32


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/control.py cifar` with the folder that holds CIFAR-10's train/ and test/."""

    data: tyro.conf.Positional[Path]
    seeds: int = 3
    epochs: int = 5
    images_per_class: int = 800
    """Training images of each class, the same ones in every run."""
    threads: int = 1


def mobilenet(num_classes: int, *, width: float = MOBILENET_WIDTH) -> nn.Module:
    return with_fine_stem(_gen_mobilenet_v2("mobilenetv2_100", channel_multiplier=width, num_classes=num_classes))


def efficientnet(num_classes: int) -> nn.Module:
    return with_fine_stem(
        _gen_efficientnet("efficientnet_b0", channel_multiplier=EFFICIENTNET_WIDTH, num_classes=num_classes)
    )


def with_fine_stem(model: Any) -> nn.Module:
    model.conv_stem.stride = (1, 1)
    return model


def macs(model: nn.Module) -> int:
    return measure_cost(model, IMAGE_PX).macs


def rexnet_width(target_macs: float) -> float:
    """Return the width, in hundredths, whose cost is nearest to the target."""
    widths = [percent / 100 for percent in range(30, 100)]
    return min(widths, key=lambda width: abs(macs(rexnet(10, width=width)) - target_macs))


def rexnet(num_classes: int, *, width: float) -> nn.Module:
    return create_model("rexnet", width=width, stem_stride=1, num_classes=num_classes)


def few(images: FileImages, per_class: int) -> FileImages:
    """Return the same first images of each class in a fixed random order."""
    order = np.random.default_rng(0).permutation(len(images))
    rank = np.zeros(len(images), dtype=int)
    for label in range(len(images.classes)):
        rank[order[images.targets[order] == label]] = np.arange((images.targets == label).sum())
    chosen = np.flatnonzero(rank < per_class)
    return FileImages([images.name(int(index)) for index in chosen], images.targets[chosen], images.classes)


def train(create: Callable[[int], nn.Module], seed: int, options: Options) -> dict[str, float]:
    """Return top-1 in percent on all test images after the last epoch, and the seconds it took."""
    recipe = small_image()
    config: TrainConfig = replace(
        recipe,
        optim=replace(recipe.optim, ema_decay=None),
        network=NetworkConfig(drop_rate=0.0),
        schedule=replace(recipe.schedule, epochs=options.epochs),
        run=replace(recipe.run, seed=seed, device="cpu", threads=options.threads),
    )
    sets = open_dataset(options.data).for_training()
    preprocess, world = config.input.preprocess(), World(device=torch.device("cpu"))
    chosen = few(sets.train, options.images_per_class)  # pyright: ignore[reportArgumentType]
    batch = config.run.batch_size
    train_batches = TrainBatches(chosen, TrainTransform(preprocess, config.augment), batch_size=batch, seed=seed)
    test_batches = EvalBatches(sets.val, preprocess, batch_size=250)
    torch.manual_seed(seed)
    model = create(len(sets.classes))
    epochs = iter(range(1, options.epochs + 1))

    def evaluate_in_the_end(network: nn.Module) -> dict[str, float]:
        if next(epochs) < options.epochs:
            return {"top1": 0.0}
        return evaluate(network, test_batches, classes=sets.classes, world=world).metrics()

    task = Task(
        loss=partial(classification_loss, device=world.device, label_smoothing=config.augment.label_smoothing),
        evaluate=evaluate_in_the_end,
        pack=lambda network, metrics: {"state_dict": network.state_dict(), "metrics": metrics},
        name_image=chosen.name,
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        row = fit(model, train_batches, task, config=config, run=RunFolder(folder), world=world)
    return {"top1_percent": row["val_top1"], "train_loss": row["train_loss"], "seconds": time.perf_counter() - began}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    target = statistics.mean([macs(mobilenet(10)), macs(efficientnet(10))])
    width = rexnet_width(target)
    networks = {
        f"ReXNet x{width:g}": partial(rexnet, width=width),
        f"MobileNetV2 x{MOBILENET_WIDTH:g}": mobilenet,
        f"EfficientNet-B0 x{EFFICIENTNET_WIDTH:g}": efficientnet,
    }
    setting = {"epochs": options.epochs, "images_per_class": options.images_per_class}
    done = {(row["network"], row["seed"]) for row in records.read(NAME) if setting.items() <= row.items()}
    for seed in range(options.seeds):
        for name, create in networks.items():
            if (name, seed) in done:
                continue
            figures = train(create, seed, options)
            model = create(10)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            cost = {"macs": macs(model), "parameters": parameters}
            row = {"data": "CIFAR-10 (JPEG files)", "network": name, "seed": seed, **cost, **setting, **figures}
            records.append(NAME, {**row, **records.provenance("cpu")})
            print(f"{name}, seed {seed}: {figures['top1_percent']:.2f} % in {figures['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
