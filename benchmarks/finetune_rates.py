"""Optimizers and learning rates that fine-tune a network with real ImageNet weights on few photos.

No published ReXNet weights can be fetched where these benchmarks run, so the network is EfficientNet-lite0 with the
weights of imagenet_network.py, on flowers17 with 10 images per class at 128 px for 5 epochs: batches of 16, crops from
half of the image, flips, a fifth of the steps as warm-up, a cosine. One row a run; a second call continues.
"""

import math
import tempfile
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import timm
import torch
import tyro
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchvision.transforms import v2 as transforms

import records
import rivals
from imagenet_network import MODEL, write_weights
from recipe_sets import find_set
from recipes import Pixels, top1_percent
from rexnet.data.datasets import ImageSets, open_dataset
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


ENDING = [
    transforms.PILToTensor(),
    transforms.ToDtype(torch.float32, scale=True),
    transforms.Normalize([0.5] * 3, [0.5] * 3),
]
CROP = transforms.Compose(
    [transforms.RandomResizedCrop(SIZE_PX, (0.5, 1.0)), transforms.RandomHorizontalFlip(), *ENDING]
)
WHOLE = transforms.Compose([transforms.Resize(SIZE_PX), transforms.CenterCrop(SIZE_PX), *ENDING])


def make_loop(weights: Path, sets: ImageSets, *, epochs: int, optimizer: str, lr: float) -> rivals.Loop:
    """Return the loop that fine-tunes a network with `weights`, its classifier apart."""
    model = timm.create_model(MODEL.removeprefix("timm/"), num_classes=len(sets.classes))
    state = {name: value for name, value in torch.load(weights).items() if not name.startswith("classifier")}
    model.load_state_dict(state, strict=False)
    steps = math.ceil(len(sets.train) / BATCH)
    schedule = ScheduleConfig(epochs=epochs, warmup_epochs=0.2 * epochs)
    rate = LearningRate(peak_lr=1.0, schedule=schedule, steps_per_epoch=steps)
    descent = create_optimizer_v2(model, opt=optimizer, lr=lr, weight_decay=0.05, momentum=0.9)
    train, val = Pixels(sets.train, CROP), Pixels(sets.val, WHOLE)
    return rivals.Loop(
        model,
        rivals.Descent(descent, after_step=LambdaLR(descent, rate).step),
        batches=lambda _: DataLoader(train, batch_size=BATCH, shuffle=True),
        steps_per_epoch=steps,
        loss_of=lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        val=DataLoader(val, batch_size=2 * BATCH),
        evaluate=partial(top1_percent, model),
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(1)
    done = {(row["optimizer"], row["lr"], row["seed"], row["epochs"]) for row in records.read(NAME)}
    data = find_set("flowers17", shared=options.shared, work=options.work)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(Path(folder, "weights.pth"))
        for seed, (optimizer, lr) in product(options.seeds, TRIALS):
            if (optimizer, lr, seed, options.epochs) in done:
                continue
            sets = open_dataset(data).for_training(shots=SHOTS, seed=seed)
            torch.manual_seed(seed)
            loop = make_loop(weights, sets, epochs=options.epochs, optimizer=optimizer, lr=lr)
            loop.fit(options.epochs)
            row = {"network": MODEL, "optimizer": optimizer, "lr": lr, "seed": seed, "epochs": options.epochs}
            row["top1_percent"] = round(loop.evaluate(loop.val)["top1_percent"], 2)
            print(row, flush=True)
            records.append(NAME, {**row, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
