from pathlib import Path

import pytest
import torch

import rexnet
from rexnet.data.preprocess import Preprocess
from rexnet.deploy import engine_choice
from rexnet.training import checkpoint
from tests.networks import with_trained_norms
from tests.serve.servers import SIDE_PX

CLASSES = ("cat", "dog, or wolf", "füchse")


@pytest.fixture(autouse=True)
def no_choices_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr(engine_choice, "cache_folder", lambda: tmp_path / "engines")


@pytest.fixture(scope="session")
def make_checkpoint():
    """make_checkpoint(path, seed=0): of a network whose answers differ from image to image."""

    def make(path: Path, seed: int = 0) -> Path:
        torch.manual_seed(seed)
        model = rexnet.create_model("rexnet_010", num_classes=len(CLASSES))
        with_trained_norms(model)
        torch.nn.init.normal_(model.get_classifier().weight, std=0.1)
        content = checkpoint.pack(
            model, {}, classes=CLASSES, preprocess=Preprocess(image_size_px=SIDE_PX, crop_ratio=0.9)
        )
        checkpoint.save(path, content)
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint_file(make_checkpoint, tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "animals.pt")
