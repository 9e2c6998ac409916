import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rexnet

ROOT = Path(__file__).parents[1]


def load(name, **options):
    return torch.hub.load(str(ROOT), name, source="local", **options)


def test_there_is_exactly_one_entry_per_network():
    hubconf = torch.hub._import_module("hubconf_under_test", str(ROOT / "hubconf.py"))
    # As torch.hub.list takes them.
    entries = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    assert entries == {*rexnet.list_models(), "rexnet", "rexnetr", "rexnet_lite"}
    assert hubconf.rexnet_100.__doc__.startswith("rexnet_100: rexnet.create_model('rexnet_100', ...)")
    assert hubconf.dependencies == ["torch"]


@pytest.mark.parametrize("name", ["rexnet_100", "rexnetr_100", "rexnet_lite_100", "rexnet_plain"])
def test_the_networks_are_those_of_the_package(name):
    model = load(name, num_classes=3, in_channels=1)
    assert model.name == name and model(torch.randn(2, 1, 64, 64)).shape == (2, 3)


def test_the_hubs_pretrained_by_name_and_place(monkeypatch, tmp_path):
    torch.save(rexnet.create_model("rexnet_100").state_dict(), tmp_path / "w.pth")
    monkeypatch.setattr("rexnet.models.weights.download_weights", lambda name: tmp_path / "w.pth")
    bias = torch.load(tmp_path / "w.pth")["output.1.bias"]
    assert torch.equal(load("rexnet_100", pretrained=True).output[1].bias, bias)
    hub = torch.hub.load(str(ROOT), "rexnet_100", True, source="local")
    assert torch.equal(hub.output[1].bias, bias)
    assert load("rexnet_100", pretrained=True, in_chans=3, num_classes=4).num_classes == 4


def test_any_width():
    assert load("rexnet", width=1.17).name == "rexnet_117"


def test_weights_by_path_and_errors_of_one_sentence(tmp_path):
    theirs = rexnet.create_model("rexnet_100")
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = load("rexnet_100", weights=tmp_path / "w.pth")
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"is width 1.00 \(rexnet_100\)"):
        load("rexnet_130", weights=tmp_path / "w.pth")


@pytest.mark.seconds
def test_it_works_without_installation_and_leaves_sys_path_unchanged(tmp_path):
    code = f"""
import sys, torch
sys.path = [entry for entry in sys.path if not entry.endswith("src")]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
before = list(sys.path)
model = torch.hub.load({str(ROOT)!r}, "rexnet_100", source="local")
assert model.name == "rexnet_100" and sys.path == before, sys.path
import rexnet
assert rexnet.__file__.startswith({str(ROOT / "src")!r}), rexnet.__file__
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
