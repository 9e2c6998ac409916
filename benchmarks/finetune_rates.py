"""Optimizers and learning rates that fine-tune a network with real ImageNet weights on few photos.

No published ReXNet weights can be fetched where these benchmarks run, so the network is EfficientNet-lite0 with the
weights of imagenet_network.py, on flowers17 with 10 images per class at 128 px for 5 epochs: batches of 16, crops from
half of the image, flips, a fifth of the steps as warm-up, a cosine. One row a run; a second call continues.
"""

import math
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import timm
import torch
import tyro
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torchvision.transforms import v2 as transforms

import records
from imagenet_network import MODEL, write_weights
from recipe_sets import find_set
from rexnet.data.datasets import open_dataset
from rexnet.training.config import ScheduleConfig
from rexnet.training.optimization import LearningRate

NAME = "finetune_rates_cpu"
SHOTS, SIZE_PX, BATCH = 10, 128, 16
TRIALS = [
    *(("muon", lr) for lr in (0.02, 0.01, 0.005, 0.002, 0.001)),
    *(("adamw", lr) for lr in (4e-3, 1e-3)),
    *(("sgd", lr) for lr in (0.05, 0.01)),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/finetune_rates.py FOLDER` with that of flowers17.tar."""

    shared: tyro.conf.Positional[Path]
    work: Path = Path("build/recipes")
    seeds: tuple[int, ...] = (0, 1)
    epochs: int = 5


def load(data: str, seed: int) -> tuple[list[Any], Tensor, Tensor, Tensor]:
    """Return training images with their classes, and transformed validation images with theirs."""
    sets = open_dataset(data).for_training(shots=SHOTS, seed=seed)
    seen = transforms.Compose([transforms.Resize(SIZE_PX), transforms.CenterCrop(SIZE_PX), *ENDING])
    train = [sets.train.load(index) for index in range(len(sets.train))]
    val = torch.stack([seen(sets.val.load(index)) for index in range(len(sets.val))])
    return train, torch.tensor(sets.train.targets[:]), val, torch.tensor(sets.val.targets[:])


ENDING = [
    transforms.PILToTensor(),
    transforms.ToDtype(torch.float32, scale=True),
    transforms.Normalize([0.5] * 3, [0.5] * 3),
]


def fine_tune(
    weights: Path, images: list[Any], targets: Tensor, *, epochs: int, optimizer: str, lr: float
) -> nn.Module:
    model = timm.create_model(MODEL.removeprefix("timm/"), num_classes=int(targets.max()) + 1)
    state = {name: value for name, value in torch.load(weights).items() if not name.startswith("classifier")}
    model.load_state_dict(state, strict=False)
    steps = math.ceil(len(images) / BATCH)
    rate = LearningRate(
        peak_lr=lr, schedule=ScheduleConfig(epochs=epochs, warmup_epochs=0.2 * epochs), steps_per_epoch=steps
    )
    crop = transforms.Compose(
        [transforms.RandomResizedCrop(SIZE_PX, (0.5, 1.0)), transforms.RandomHorizontalFlip(), *ENDING]
    )
    descent = create_optimizer_v2(model, opt=optimizer, lr=lr, weight_decay=0.05, momentum=0.9)
    model.train()
    for step in range(epochs * steps):
        if step % steps == 0:
            batches = torch.randperm(len(images)).split(BATCH)
        for group in descent.param_groups:
            group["lr"] = rate(step)
        chosen = batches[step % steps]
        logits = model(torch.stack([crop(images[index]) for index in chosen]))
        descent.zero_grad()
        nn.functional.cross_entropy(logits, targets[chosen]).backward()
        descent.step()
    return model


@torch.inference_mode()
def top1(model: nn.Module, images: Tensor, targets: Tensor) -> float:
    model.eval()
    named = torch.cat([model(batch).argmax(1) for batch in images.split(32)])
    return 100 * (named == targets).double().mean().item()


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.commit()
    torch.set_num_threads(1)
    done = {(row["optimizer"], row["lr"], row["seed"], row["epochs"]) for row in records.read(NAME)}
    data = find_set("flowers17", shared=options.shared, work=options.work)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(Path(folder, "weights.pth"))
        for seed, (optimizer, lr) in product(options.seeds, TRIALS):
            if (optimizer, lr, seed, options.epochs) in done:
                continue
            train, classes, val, val_classes = load(data, seed)
            torch.manual_seed(seed)
            model = fine_tune(weights, train, classes, epochs=options.epochs, optimizer=optimizer, lr=lr)
            row = {"network": MODEL, "optimizer": optimizer, "lr": lr, "seed": seed, "epochs": options.epochs}
            row["top1_percent"] = round(top1(model, val, val_classes), 2)
            print(row, flush=True)
            records.append(NAME, {**row, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
