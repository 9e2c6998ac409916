import logging
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

# Before the hub's client is imported, and for the programs that tests start: `--weights auto` would wait for it.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from rexnet.data.config import AugmentConfig
from rexnet.data.preprocess import Preprocess
from rexnet.models.config import BlockSpec, RexNetConfig
from rexnet.models.rexnet import RexNet
from rexnet.training.classify import train
from rexnet.training.config import InputConfig, NetworkConfig, OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from tests.drawings import draw_folder

SHARED = Path(os.environ.get("REXNET_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_configure(config):
    # Two workers share two cores; more threads than that only fight.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread():
    """Every test starts with one thread, whatever a command set in the one before: more round otherwise than the
    programs that tests compare with."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection that leaves this machine fails the test that made it."""
    real_connect = socket.socket.connect

    def connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"the test suite is offline, but something connects to {address}")
        return real_connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches of the hub client and of torch.hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def no_sockets(monkeypatch):
    """A list of the attempts to look a host up or to connect, all of which fail."""
    attempts = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def refuse(*arguments, **options):
        attempts.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.fixture(autouse=True)
def log_levels():
    """Every test starts with the log levels of an import, whatever the command line set in the one before."""
    yield
    for name in ("rexnet", "rexnet.training"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data/ and oracle/. CI refuses to start without it; a bare clone skips what needs it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the shared data; set REXNET_SHARED to its folder")
    return SHARED


@pytest.fixture(scope="session")
def shared_data(shared) -> Path:
    return shared / "data"


@pytest.fixture
def image_folder(tmp_path) -> Path:
    return draw_folder(tmp_path / "images")


@pytest.fixture
def tiny_model() -> Callable[..., RexNet]:
    """tiny_model(seed): three blocks, squeeze-excitation, shortcut, drop-out and drop path, for 3 classes."""

    def make(seed: int = 0, *, drop_rate: float = 0.2, drop_path_rate: float = 0.2) -> RexNet:
        torch.manual_seed(seed)
        blocks = (
            BlockSpec(in_channels=8, expanded_channels=8, out_channels=8),
            BlockSpec(in_channels=8, expanded_channels=24, out_channels=12, stride=2, se_channels=4),
            BlockSpec(in_channels=12, expanded_channels=24, out_channels=16, se_channels=4, shortcut=True),
        )
        config = RexNetConfig(
            name="tiny",
            blocks=blocks,
            stem_channels=8,
            penultimate_channels=32,
            num_classes=3,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        return RexNet(config)

    return make


@pytest.fixture
def tiny_preprocess() -> Preprocess:
    return Preprocess(image_size_px=16, crop_ratio=1.0)


@pytest.fixture
def tiny_config(image_folder, tmp_path) -> TrainConfig:
    """A whole run in a second or two, with everything random switched on."""
    return TrainConfig(
        data=str(image_folder),
        recipe="small-image",
        network=NetworkConfig(model="rexnet", width=0.1, stem_stride=1, drop_path_rate=0.2),
        input=InputConfig(image_size=16, crop_ratio=1.0),
        augment=AugmentConfig(crop_padding_px=2, random_erasing=0.5, label_smoothing=0.1),
        optim=OptimConfig(lr=0.05, lr_batch=8, weight_decay=5e-4, clip_grad=5.0, ema_decay=0.9),
        schedule=ScheduleConfig(epochs=3, warmup_epochs=1.0),
        run=RunConfig(batch_size=8, seed=3, device="cpu", workers=0, output=str(tmp_path / "run")),
    )


@pytest.fixture
def changed() -> Callable[..., TrainConfig]:
    """changed(config, "run", seed=4): `config` with fields of one group replaced."""

    def change(config: TrainConfig, group: str, **fields) -> TrainConfig:
        return replace(config, **{group: replace(getattr(config, group), **fields)})

    return change


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> Path:
    """The folder of a run whose best network predicts all its validation images correctly, made once and only read.
    Its data is in the folder `images` beside it."""
    root = tmp_path_factory.mktemp("trained")
    config = TrainConfig(
        data=str(draw_folder(root / "images", train=32)),
        recipe="small-image",
        network=NetworkConfig(model="rexnet", width=0.2, stem_stride=1, drop_rate=0.0),
        input=InputConfig(image_size=24, crop_ratio=1.0),
        augment=AugmentConfig(crop_padding_px=2),
        optim=OptimConfig(lr=0.05, lr_batch=8, clip_grad=5.0),
        schedule=ScheduleConfig(epochs=8, warmup_epochs=1.0),
        run=RunConfig(batch_size=8, seed=3, device="cpu", workers=0, output=str(root / "run")),
    )
    assert train(config)["best"]["val_top1"] == 100.0, "the tests of reports need a network without mistakes"
    return root / "run"
