import json
from pathlib import Path

import pytest

from rexnet.data.splits import RandomSplit
from rexnet.detection import checkpoints, create_detector
from rexnet.training import checkpoint

CLASSES = ("cat", "Hund | <b>*x*</b>\n# heading", "狐")
ROW = {
    "epoch": 2,
    "seconds": 60.0,
    "val_top1": 90.0,
    "val_top5": 100.0,
    "val_macro_recall": 88.5,
    "val_macro_f1": float("nan"),
    "val_images": 100,
}
DETECTOR_ROW = {"epoch": 1, "seconds": 5.0, "val_box_ap": 33.3, "val_box_ap50": 50.0, "val_images": 8}


def write_run(folder: Path, content: dict, *, row: dict, network: dict, data: str = "photos") -> Path:
    """A run folder as trainings leave it, without the training."""
    folder.mkdir()
    checkpoint.save(folder / "best.pt", content)
    files = {
        "config.json": {
            "data": data,
            "recipe": "small-image",
            "network": {"weights": None, **network},
            "schedule": {"epochs": 3},
            "run": {"seed": 7},
        },
        "environment.json": {
            "command": "/home/alice/bin/rexnet train /home/alice/photos --output=/home/alice/runs/1 --epochs 3",
            "device": "cpu",
            "threads": 2,
            "torch": "2.11",
        },
        "data.json": {
            "description": "photos: 400 train / 100 val images of 3 classes (20 % of each class held back)",
            "classes": content["classes"],
        },
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values))
    (folder / "metrics.jsonl").write_text(json.dumps({**row, "epoch": 1}) + "\n" + json.dumps(row) + "\n")
    return folder


@pytest.fixture
def content(tiny_model, tiny_preprocess) -> dict:
    split = RandomSplit(val_fraction=0.2, seed=7, fingerprint="0" * 64)
    return checkpoint.pack(tiny_model(), ROW, classes=CLASSES, preprocess=tiny_preprocess, split=split)


@pytest.fixture
def run(content, tmp_path) -> Path:
    return write_run(tmp_path / "run", content, row=ROW, network={"model": "tiny"}, data="/home/alice/photos")


@pytest.fixture
def detector_run(tmp_path) -> Path:
    model = create_detector("ssdlite", backbone="rexnet_010", num_classes=3, min_size_px=96, max_size_px=96)
    content = checkpoints.pack(model, DETECTOR_ROW, classes=("a", "b", "c"), category_ids=(1, 5, 9))
    network = {"detector": "ssdlite", "model": "rexnet_010"}
    return write_run(tmp_path / "detector", content, row=DETECTOR_ROW, network=network)
