import json

import pytest
import timm
import torch

import rexnet
from rexnet.card.config import CardConfig
from rexnet.card.hub_files import escape, public_command, public_name, timm_name
from rexnet.card.write import write_card
from rexnet.models.variants import model_config
from rexnet.training import checkpoint


def test_timm_reads_the_folder_after_register_with_timm(tmp_path, tiny_preprocess):
    """Only what timm understands: the name of a network that it can make."""
    torch.manual_seed(0)
    model = rexnet.create_model("rexnet_lite_100", num_classes=3, stem_stride=1, drop_rate=0.1).eval()
    content = checkpoint.pack(model, {}, classes=("a", "b", "c"), preprocess=tiny_preprocess)
    checkpoint.save(tmp_path / "model.pt", content)
    write_card(CardConfig(run=str(tmp_path / "model.pt"), output=str(tmp_path / "out")))
    assert "local-dir:." in (tmp_path / "out" / "README.md").read_text()
    rexnet.register_with_timm()
    read = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(read(images), model(images))
    config = timm.data.resolve_model_data_config(read)
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ([3, 16, 16], 1.0, "bicubic")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("rexnet_100", {}, "native_rexnet_100"),
        ("rexnet_100", {"drop_path_rate": 0.1, "num_classes": 5}, "native_rexnet_100"),
        ("rexnet_050", {}, None),
        ("rexnet_100", {"output_stride": 8}, None),
        ("rexnet_100", {"in_channels": 1}, None),
    ],
)
def test_only_networks_that_timm_can_make_have_its_name(name, options, expected):
    assert timm_name(model_config(name, **options)) == expected


def test_a_network_unknown_to_timm_has_no_timm_name(run, tmp_path):
    write_card(CardConfig(run=str(run), output=str(tmp_path / "out")))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "architecture" not in config and config["rexnet"]["model"]["name"] == "tiny"
    assert config["num_classes"] == len(config["label_names"]) == 3


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("digits", "digits"),
        ("data/flowers", "data/flowers"),
        ("/home/alice/flowers", "flowers"),
        ("~/flowers", "flowers"),
        ("../alice/flowers", "flowers"),
        ("https://alice:secret@host/set/{00..10}.tar?token=secret", "https://host/set/{00..10}.tar"),
        ("hf://owner/name@main", "hf://owner/name@main"),
    ],
)
def test_private_parts_are_removed_from_a_name(name, shown):
    assert public_name(name) == shown


def test_private_parts_are_removed_from_every_argument_of_a_command():
    command = "/venv/bin/rexnet train '/home/alice/my photos' --weights=/home/alice/best.pt --output ~/runs/1 --lr 0.1"
    assert public_command(command) == "rexnet train 'my photos' --weights=best.pt --output 1 --lr 0.1"
    assert public_command("/venv/rexnet/__main__.py train x") == "rexnet train x"
    assert public_command("rexnet train 'a\nb'") == r"rexnet train 'a\nb'"


def test_text_stays_text():
    assert escape("a_b_") == r"a_b\_" and escape("<x>\n| *y*") == r"\<x\>\\n\| \*y\*"
