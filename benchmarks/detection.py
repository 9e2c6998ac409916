"""Sanity checks of detectors: 16 real images overfitted, and drawn shapes found in unseen images.

Everything goes through `rexnet detect train`'s own function, from random weights. A row a run; the figures are those of
the best epoch.
"""

import json
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

import records
from rexnet.data.boxes.shapes import draw_shapes
from rexnet.data.config import DetectionAugmentConfig
from rexnet.detection.config import DetectTrainConfig, Kind
from rexnet.detection.recipes import small
from rexnet.detection.train import train
from rexnet.training.config import Amp, OptimConfig, ScheduleConfig

NAME = "detection"
OVERFIT_IMAGES = 16


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/detection.py overfit mask_rcnn --data tiny_coco` or `... shapes mask_rcnn`"""

    what: Annotated[Literal["overfit", "shapes"], tyro.conf.Positional]
    kind: Annotated[Kind, tyro.conf.Positional]
    data: Path = Path("tiny_coco")
    """The folder that tiny_coco.tar holds, for overfit."""
    model: str = "rexnet_050"
    size_px: int = 256
    """Longer side of an image in the detector; of shapes, 128 for the pyramids."""
    epochs: int = 60
    batch_size: int = 4
    lr: float = 1e-3
    proposals: int = 100
    amp: Amp = "off"
    threads: int = 1
    images: int = 300
    """Generated images to train on."""


def clearest_images(source: Path, target: Path) -> int:
    """Those 16 of tiny_coco's training images whose smallest object is the largest, without crowds, as both sides of a
    set: what is learned by heart is measured. Returns the number of objects."""
    content = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    objects = defaultdict(list)
    for row in content["annotations"]:
        objects[row["image_id"]].append(row)
    smallest = {
        image["id"]: min(min(row["bbox"][2:]) for row in objects[image["id"]]) / max(image["width"], image["height"])
        for image in content["images"]
        if objects[image["id"]] and not any(row["iscrowd"] for row in objects[image["id"]])
    }
    chosen = set(sorted(smallest, key=lambda number: -smallest[number])[:OVERFIT_IMAGES])
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [row for number in sorted(chosen) for row in objects[number]]
    (target / "annotations").mkdir(parents=True)
    for side in ("train", "val"):
        (target / "annotations" / f"instances_{side}.json").write_text(json.dumps(content))
        os.symlink((source / "train2017").resolve(), target / side)
    return len(content["annotations"])


def settings(options: Options, data: Path, output: Path) -> DetectTrainConfig:
    recipe = small(str(data), kind=options.kind)
    single_stage = options.kind == "ssdlite"
    network = replace(
        recipe.network,
        model=options.model,
        min_size=options.size_px if single_stage else options.size_px * 3 // 4,
        max_size=options.size_px,
        proposals=None if single_stage else options.proposals,
    )
    flip = 0.5 if options.what == "shapes" else 0.0
    return replace(
        recipe,
        network=network,
        augment=DetectionAugmentConfig(horizontal_flip=flip),
        optim=OptimConfig(optimizer="adamw", lr=options.lr, lr_batch=0, weight_decay=0.01, clip_grad=10.0),
        schedule=ScheduleConfig(epochs=options.epochs, warmup_epochs=1.0),
        run=replace(
            recipe.run, batch_size=options.batch_size, threads=options.threads, amp=options.amp, output=str(output)
        ),
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        facts: dict[str, Any] = {"what": options.what, "detector": options.kind, "backbone": options.model}
        if options.what == "overfit":
            facts |= {"images": OVERFIT_IMAGES, "objects": clearest_images(options.data, data)}
        else:
            facts |= draw_shapes(data, images=options.images, seed=0, size_px=options.size_px)
        best = train(settings(options, data, Path(folder, "run")))["best"]
    figures = {name.removeprefix("val_"): round(best[name], 2) for name in best if name.startswith("val_")}
    torch.set_num_threads(options.threads)
    made = {"size_px": options.size_px, "epochs": options.epochs, "amp": options.amp, "best_epoch": best["epoch"]}
    minutes = round((time.perf_counter() - began) / 60, 1)
    records.append(NAME, {**facts, **made, **figures, "minutes": minutes, **records.provenance("cpu")})
    print(json.dumps({**facts, **figures, "minutes": minutes}))


if __name__ == "__main__":
    main()
