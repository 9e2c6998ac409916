import os
import socket
from pathlib import Path

import pytest
import torch

from tests.drawings import draw_folder

SHARED = Path(os.environ.get("REXNET_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_configure(config):
    # Two workers share two cores; more threads than that only fight.
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
