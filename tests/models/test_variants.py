"""Names, widths and the published sizes."""

from dataclasses import replace

import pytest
import torch

import rexnet
import rexnetv1_lite
from rexnet.models.cost import measure_cost
from rexnet.models.layouts import find_variant, layout_of_config
from rexnet.models.variants import model_config

# Paper supplement and README, in millions of parameters and billions of MACs, with the digits they print.
PUBLISHED = {
    "rexnet_090": (4.1, 0.35),
    "rexnet_100": (4.8, 0.40),
    "rexnet_110": (5.6, 0.48),
    "rexnet_120": (6.6, 0.57),
    "rexnet_130": (7.6, 0.66),
    "rexnet_140": (8.6, 0.76),
    "rexnet_150": (9.7, 0.88),
    "rexnet_200": (16, 1.5),
    "rexnet_220": (19, 1.8),
    "rexnet_300": (35, 3.4),
    "rexnet_lite_100": (4.7, 0.41),
    "rexnet_lite_130": (6.7, 0.65),
    "rexnet_lite_150": (8.3, 0.84),
    "rexnet_lite_200": (13, 1.5),
    "rexnet_plain": (3.4, 0.56),
}
# Derived from the official code to the last digit.
EXACT = {
    "rexnet_090": (4.0913, 0.3477),
    "rexnet_110": (5.6423, 0.4806),
    "rexnet_200": (16.3666, 1.5289),
    "rexnet_220": (19.4853, 1.8425),
    "rexnet_300": (34.7088, 3.3960),
    "rexnet_60": (2.29, 0.2225),
    "rexnet_plain": (3.399, 0.5647),
    "rexnet_lite_200": (12.966, 1.498),
}


def digits(value: float) -> int:
    text = f"{value:g}"
    return len(text.split(".")[1]) if "." in text else 0


@pytest.mark.parametrize(("name", "millions", "billions"), [(n, *v) for t in (PUBLISHED, EXACT) for n, v in t.items()])
def test_sizes_are_the_published_ones(name, millions, billions):
    cost = measure_cost(rexnet.create_model(name))
    assert round(cost.parameters / 1e6, digits(millions)) == millions
    assert round(cost.macs / 1e9, digits(billions)) == billions


def test_channels_are_the_published_ones():
    blocks = {name: [b.out_channels for b in model_config(name).blocks] for name in ("rexnet_100", "rexnet_lite_100")}
    assert blocks["rexnet_100"] == [16, 27, 38, 50, 61, 72, 84, 95, 106, 117, 128, 140, 151, 162, 174, 185]
    assert blocks["rexnet_lite_100"] == [16, 32, 40, 48, 64, 72, 80, 96, 104, 112, 128, 136, 144, 160, 168, 184]


def to_multiple(channels, divisor):
    multiple = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return multiple + divisor if multiple < 0.9 * channels else multiple


@pytest.mark.parametrize("percent", range(50, 301))
def test_every_width_has_the_official_channels(percent):
    """The formulas of clovaai/rexnet at any width; the oracle's vectors fix them at the published ones."""
    width = percent / 100
    first, stem = (16 / width, 32 / width) if width < 1 else (16, 32)
    line, lite_line = [first], [first]
    for _ in range(15):
        line.append(line[-1] + 180 / 16)
        lite_line.append(lite_line[-1] + 164 / 15)

    config = model_config(f"rexnet_{percent:03d}")
    assert [block.out_channels for block in config.blocks] == [round(channels * width) for channels in line]
    assert (config.stem_channels, config.penultimate_channels) == (round(stem * width), int(1280 * width))
    inner = [block.expanded_channels for block in config.blocks]
    assert inner[1:] == [6 * block.in_channels for block in config.blocks[1:]]
    assert [block.se_channels for block in config.blocks] == [0] * 3 + [channels // 12 for channels in inner[3:]]

    lite = model_config(f"rexnet_lite_{percent:03d}")
    assert [block.out_channels for block in lite.blocks] == [to_multiple(round(c * width), 8) for c in lite_line]
    assert lite.stem_channels == to_multiple(round(stem * width), 8)
    assert lite.penultimate_channels == (int(1280 * width) if width > 1 else 1280)
    found = find_variant(layout_of_config(lite))
    assert found is not None and replace(found, name=lite.name) == lite
    official = rexnetv1_lite_config(width)
    assert replace(official, name=lite.name) == lite


def rexnetv1_lite_config(width):
    with torch.device("meta"):
        return rexnetv1_lite.ReXNetV1_lite(multiplier=width).config


def test_lite_keeps_its_penultimate_width_on_request():
    with torch.device("meta"):
        assert rexnetv1_lite.ReXNetV1_lite(multiplier=1.17).num_features == 1497
        assert rexnetv1_lite.ReXNetV1_lite(multiplier=1.17, divisible_value=0).num_features == 1497
        assert rexnetv1_lite.ReXNetV1_lite(multiplier=1.17, fix_head_stem=True).num_features == 1280


def test_list_is_the_named_variants_and_each_can_be_made():
    names = rexnet.list_models()
    assert len(names) == len(set(names)) == 10 + 10 + 4 + 1
    assert all(model_config(name).name == name for name in names)


def test_any_width_has_a_name():
    assert rexnet.create_model("rexnet", width=1.17).name == "rexnet_117"
    assert model_config("rexnet_117") == model_config("rexnet", width=1.17)
    assert model_config("rexnet", width=1.175).name == "rexnet_117.5"
    assert model_config("rexnet_117.5") == model_config("rexnet", width=1.175)
    assert model_config("rexnet", width=0.9) == model_config("rexnet_090")
    assert all(b.out_channels % 8 == 0 for b in model_config("rexnetr", width=1.17).blocks)


@pytest.mark.seconds
@pytest.mark.parametrize("width", [0.05, 0.3, 0.77, 1.01, 2.9, 5.0])
def test_odd_widths_run(width):
    for family in ("rexnet", "rexnetr", "rexnet_lite"):
        model = rexnet.create_model(family, width=width, num_classes=2).eval()
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", {}, "there is no model 'resnet50'; allowed: rexnet_090"),
        ("rexnet", {}, "model 'rexnet' needs a width"),
        ("rexnet_100", {"width": 1.0}, "model 'rexnet_100' has its width in its name"),
        ("rexnet_plain", {"width": 1.0}, "model 'rexnet_plain' has its width in its name"),
        ("rexnet", {"width": 0.0}, "width is 0; allowed: above 0"),
        ("rexnet", {"width": 5.01}, "width is 5.01; allowed: above 0 and at most 5, .* 92 M parameters$"),
        ("rexnet_1000", {}, r"width is 10; allowed: above 0 and at most 5, .*did you mean rexnet_100\?"),
        ("rexnet_lite_999", {}, "width is 9.99; allowed: above 0 and at most 5"),
        ("rexnet", {"width": float("nan")}, "width is nan; allowed: above 0"),
        ("rexnet_100", {"output_stride": 4}, "output_stride is 4; allowed: 8, 16, 32"),
        ("rexnet_100", {"stem_stride": 4}, "stem_stride is 4; allowed: 1, 2"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(name, options, message):
    with pytest.raises(ValueError, match=message):
        rexnet.create_model(name, **options)


def test_a_folder_given_as_a_network_gets_its_own_error(tmp_path):
    with pytest.raises(ValueError, match=r"\(but a folder: name a file in it, such as best\.pt of a run\); allowed: "):
        rexnet.create_model(str(tmp_path))


def test_other_inputs_and_heads():
    model = rexnet.create_model("rexnet_090", in_channels=1, num_classes=0).eval()
    assert model(torch.randn(1, 1, 31, 57)).shape == (1, 1152)
