"""The default recipe beside a plain training loop: the same network, images, epochs and batch size.

The plain loop: RandomResizedCrop from half of the image, flip, AdamW with a one-cycle rate up to 4e-3, weight decay
0.05, cross-entropy. Both are judged by the weights after the last epoch. One row a run; runs already in the results
are skipped, so a second call continues. Networks are of width 0.5 at 64 px (digits and CIFAR-10 at 32, stem
stride 1).
"""

import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import tyro
from PIL import Image
from torch import nn
from torchvision.transforms import v2 as transforms

import records
from rexnet.data.boxes.shapes import draw_shapes
from rexnet.data.datasets import ImageSets, open_dataset
from rexnet.data.image_set import ImageSet
from rexnet.models.factory import create_model

NAME = "recipes_cpu"
WIDTH, BATCH = 0.5, 32
Contender = Literal["rexnet", "plain"]


class Task(NamedTuple):
    """A dataset as both contenders see it."""

    data: str
    image_px: int = 64
    shots: int | None = None

    @property
    def stem_stride(self) -> int:
        return 1 if self.image_px <= 32 else 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/recipes.py FOLDER` with that of flowers17.tar, cifar10.tar.gz and tiny_coco.tar."""

    shared: tyro.conf.Positional[Path]
    work: Path = Path("build/recipes")
    """Where the sets are unpacked and made."""
    sets: tuple[str, ...] = ("digits", "cifar10-2000", "flowers17", "flowers17-10", "coco-crops", "shapes")
    contenders: tuple[Contender, ...] = ("rexnet", "plain")
    epochs: tuple[int, ...] = (5, 20)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    threads: int = 1
    arguments: str = ""
    """More arguments of `rexnet train`, as a shell reads them; such runs are printed and not recorded."""


def unpack(archive: Path, folder: Path) -> Path:
    """Extract `archive` into `folder` unless that is done."""
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made, tarfile.open(archive) as tar:
            tar.extractall(Path(made, "data"), filter="data")
            Path(made, "data").rename(folder)
    return folder


def cut_crops(coco: Path, folder: Path, *, least_px: int = 24, least_images: int = 8) -> Path:
    """Make class folders of the objects in a COCO folder: crops of their boxes, of classes with enough of them."""
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        counts: dict[str, int] = {}
        sets = open_dataset(str(coco)).for_detection()
        for split, images in (("train", sets.train), ("val", sets.val)):
            content = images.to_coco()
            names = {row["id"]: row["name"] for row in content["categories"]}
            files = {row["id"]: images.name(index) for index, row in enumerate(content["images"])}
            for row in content["annotations"]:
                left, top, width, height = row["bbox"]
                name = names[row["category_id"]]
                if row.get("iscrowd") or min(width, height) < least_px:
                    continue
                place = Path(made, "data", split, name)
                place.mkdir(parents=True, exist_ok=True)
                counts[name] = counts.get(name, 0) + (split == "train")
                with Image.open(files[row["image_id"]]) as image:
                    box = (round(left), round(top), round(left + width), round(top + height))
                    image.convert("RGB").crop(box).save(place / f"{row['id']}.png")
        for split in ("train", "val"):
            for place in list(Path(made, "data", split).iterdir()):
                if counts.get(place.name, 0) < least_images or not Path(made, "data", "val", place.name).exists():
                    place.rename(Path(made, f"{split} {place.name}"))
        Path(made, "data").rename(folder)
    return folder


def make_tasks(options: Options) -> dict[str, Task]:
    shared, work = options.shared, options.work
    work.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], Task]] = {
        "digits": lambda: Task("digits", image_px=32),
        "cifar10-2000": lambda: Task(str(unpack(shared / "cifar10.tar.gz", work / "cifar10")), image_px=32, shots=200),
        "flowers17": lambda: Task(str(unpack(shared / "flowers17.tar", work / "flowers17"))),
        "flowers17-10": lambda: Task(str(unpack(shared / "flowers17.tar", work / "flowers17")), shots=10),
        "coco-crops": lambda: Task(
            str(cut_crops(unpack(shared / "tiny_coco.tar", work / "coco"), work / "coco-crops"))
        ),
        "shapes": lambda: Task(str(cut_crops(draw(work / "drawn"), work / "shapes", least_px=16))),
    }
    return {name: makers[name]() for name in options.sets}


def draw(folder: Path) -> Path:
    if not folder.exists():
        draw_shapes(str(folder), images=240, seed=0, size_px=128)
    return folder


def run_rexnet(task: Task, *, epochs: int, seed: int, options: Options) -> float:
    """Return top-1 in percent of `rexnet train` after the last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        shots = ["--shots", str(task.shots)] if task.shots else []
        small = ["--stem-stride", "1"] if task.stem_stride == 1 else []
        command = [
            *(sys.executable, "-m", "rexnet", "train", task.data, "--model", "rexnet", "--width", str(WIDTH)),
            *("--image-size", str(task.image_px), *small, *shots, "--batch-size", str(BATCH)),
            *("--epochs", str(epochs), "--seed", str(seed), "--threads", str(options.threads)),
            *("--device", "cpu", "--output", f"{folder}/run", *shlex.split(options.arguments)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        rows = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
        return json.loads(rows[-1])["val_top1"]


class Pixels(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Transformed images with their class."""

    def __init__(self, images: ImageSet, transform: Callable[[Image.Image], torch.Tensor]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images.load(index)), int(self.images.targets[index])


def run_plain(task: Task, *, epochs: int, seed: int, options: Options) -> float:
    """Return top-1 in percent of the plain loop after the last epoch."""
    sets: ImageSets = open_dataset(task.data).for_training(shots=task.shots, seed=seed)
    ending = [
        transforms.PILToTensor(),
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize([0.5], [0.25]),
    ]
    seen = [transforms.RandomResizedCrop(task.image_px, (0.5, 1.0)), transforms.RandomHorizontalFlip(), *ending]
    evaluated = [transforms.Resize(task.image_px), transforms.CenterCrop(task.image_px), *ending]
    torch.manual_seed(seed)
    model = create_model("rexnet", width=WIDTH, stem_stride=task.stem_stride, num_classes=len(sets.classes))
    train = torch.utils.data.DataLoader(
        Pixels(sets.train, transforms.Compose(seen)), batch_size=BATCH, shuffle=True, drop_last=len(sets.train) > BATCH
    )
    val = torch.utils.data.DataLoader(Pixels(sets.val, transforms.Compose(evaluated)), batch_size=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * len(train))
    for _ in range(epochs):
        model.train()
        for images, targets in train:
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(images).argmax(1) == targets).sum()) for images, targets in val)
    return 100 * right / len(sets.val)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    tasks = make_tasks(options)
    keys = ("set", "contender", "epochs", "seed")
    done = {tuple(row[key] for key in keys) for row in records.read(NAME)}
    for epochs in options.epochs:
        for seed in options.seeds:
            for name, task in tasks.items():
                for contender in options.contenders:
                    if (name, contender, epochs, seed) in done and not options.arguments:
                        continue
                    began = time.perf_counter()
                    run = run_rexnet if contender == "rexnet" else run_plain
                    top1 = run(task, epochs=epochs, seed=seed, options=options)
                    row: dict[str, Any] = dict(zip(keys, (name, contender, epochs, seed), strict=True))
                    row |= {"top1_percent": round(top1, 2), "minutes": round((time.perf_counter() - began) / 60, 2)}
                    print(json.dumps(row), flush=True)
                    if not options.arguments:
                        setting = {"width": WIDTH, "batch_size": BATCH, **task._asdict(), "data": name}
                        records.append(NAME, {**row, **setting, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
