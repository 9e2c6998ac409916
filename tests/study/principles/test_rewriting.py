import json
from functools import cache
from itertools import pairwise

import pytest
import timm
import torch
import torchvision
from torch import nn

from rexnet.cli import main
from rexnet.models.config import RexNetConfig
from rexnet.models.cost import measure_cost
from rexnet.models.factory import create_model
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import PLAIN_CHANNELS, PLAIN_STRIDES
from rexnet.study.layers import load_network
from rexnet.study.principles import advise, rewrite
from rexnet.study.principles.chains import read_chain
from rexnet.study.principles.dense import find_channel_groups, resize
from rexnet.study.principles.rewriting import solve
from rexnet.study.principles.tracing import trace

NETWORKS = {
    "timm/mobilenetv1_100": lambda: timm.create_model("mobilenetv1_100"),
    "timm/mobilenetv2_100": lambda: timm.create_model("mobilenetv2_100"),
    "torchvision/mobilenet_v2": torchvision.models.mobilenet_v2,
    "timm/resnet50": lambda: timm.create_model("resnet50"),
    "torchvision/resnet50": torchvision.models.resnet50,
    "torchvision/vgg16": torchvision.models.vgg16,
    "torchvision/vgg16_bn": torchvision.models.vgg16_bn,
}


@cache
def rewritten_network(name):
    """The network as it was, its shapes before, the rewritten one and the report; all without values."""
    with torch.device("meta"):
        model = NETWORKS[name]()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    return model, shapes, *rewrite(model)


@pytest.mark.seconds
@pytest.mark.parametrize("name", NETWORKS)
def test_macs_stay_and_rules_are_kept(name):
    model, state, rewritten, report = rewritten_network(name)
    assert {key: value.shape for key, value in model.state_dict().items()} == state
    cost = measure_cost(rewritten)
    assert report.before.macs == measure_cost(model).macs
    assert (report.after.macs, report.after.parameters) == (cost.macs, sum(p.numel() for p in rewritten.parameters()))
    assert abs(report.after.macs / report.before.macs - 1) < 0.003
    assert 0.8 < report.after.parameters / report.before.parameters < 1.2
    before, after = advise(model).by_rule(), advise(rewritten).by_rule()
    # ReXNet (plain) keeps the ReLU6 after its stem, as published; linear channels are low in ratio where they are few.
    assert after["activation"] <= 1 < 13 <= before["activation"]
    assert after["block ratio"] <= before["block ratio"] and after["expansion"] == after["penultimate"] == 0
    assert not report.left and all(change.reasons and change.before != change.after for change in report.changes)


def test_mobilenet_v1_becomes_the_published_plain_rexnet():
    *_, report = rewritten_network("timm/mobilenetv1_100")
    blocks = report.config.blocks
    assert [block.stride for block in blocks] == list(PLAIN_STRIDES)
    channels = [block.out_channels for block in blocks]
    assert all(abs(ours / published - 1) < 0.01 for ours, published in zip(channels, PLAIN_CHANNELS, strict=True))
    published = create_model("rexnet_plain").config.blocks[0]
    same = ("depthwise_activation", "out_activation", "shortcut", "kernel_size")
    assert all(getattr(blocks[0], name) == getattr(published, name) for name in same)
    assert report.config.activation == "relu6" and report.config.penultimate_channels == 0


def test_a_chain_is_read_as_its_network():
    for model in (create_model("rexnet_plain"), create_model("rexnet_lite_100", num_classes=7)):
        config = read_chain(model, trace(model, 64), 64)
        if model.config.head_hidden_channels:
            assert config is None
        else:
            assert config is not None and config.blocks == tuple(model.config.blocks)
    model = torchvision.models.mobilenet_v2(num_classes=7)
    config = read_chain(model, trace(model, 64), 64)
    assert config is not None and RexNet(config)(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert sum(block.shortcut for block in config.blocks) == 10 and config.drop_rate == 0.2


def test_mobilenet_v2_has_linear_channels_and_its_parameters():
    *_, report = rewritten_network("timm/mobilenetv2_100")
    channels = [block.out_channels for block in report.config.blocks]
    steps = [after - before for before, after in pairwise(channels)]
    assert channels[0] == 16 and max(steps) - min(steps) <= 1
    assert abs(report.after.parameters / report.before.parameters - 1) < 0.005
    expanded = [block.expanded_channels / block.in_channels for block in report.config.blocks]
    assert expanded == [1.0] + [6.0] * 16
    assert {block.depthwise_activation for block in report.config.blocks} == {"relu6"}


def small_resnet():
    model = torchvision.models.resnet50(num_classes=10)
    model.conv1.stride = (1, 1)
    return model


@pytest.mark.seconds
def test_a_rewritten_resnet_learns_and_runs_in_its_librarys_modules():
    torch.manual_seed(0)
    model, report = rewrite(small_resnet(), image_size_px=32)
    assert type(model) is torchvision.models.ResNet
    changed = {change.layer: change for change in report.changes}
    assert changed["layer1.0.conv2"].reasons == ("expand input", "activation")
    assert changed["layer1.0.conv1"].reasons == ("budget", "activation") and changed["fc"].reasons == ("penultimate",)
    assert changed["avgpool.0"].before == "" and model.fc.in_features == 2560
    model.eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    model.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_vgg_channels_lie_on_a_line():
    _, _, model, report = rewritten_network("torchvision/vgg16")
    reasons = {change.layer: change.reasons for change in report.changes}
    assert [reasons[f"classifier.{layer}"] for layer in (0, 3, 6)] == [("line",), ("penultimate",), ("penultimate",)]
    widths = [layer.out_channels for layer in model.features if isinstance(layer, nn.Conv2d)]
    steps = [after - before for before, after in pairwise(widths)]
    assert len(widths) == 13 and max(steps) - min(steps) <= 1 and min(steps) > 0
    assert model.classifier[3].out_features == 5120 and model.classifier[0].in_features == 49 * widths[-1]


def test_resizing_to_equal_widths_changes_nothing_and_other_widths_run():
    model = timm.create_model("mobilenetv2_050", num_classes=3)
    found = trace(model, 32)
    groups = find_channel_groups(found)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    resize(model, found, groups, groups.widths)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    *inner, classifier = groups.widths
    resize(model, found, groups, {group: groups.widths[group] + 3 for group in inner})
    assert model.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    assert groups.widths[classifier] == 3


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 64, 3), nn.Conv2d(64, 256, 3)])
        self.head = nn.Linear(256, 5)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.mean((2, 3)))


def test_unchangeable_layers_are_listed():
    _, report = rewrite(Functional(), image_size_px=32)
    assert report.left == (
        "head: its input is not pooled by a module, so it stays",
        "the network itself: its activation is not a separate module, so it stays",
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: create_model("rexnet_050"), "is not a chain of stem, blocks without gates"),
        (lambda: torchvision.models.densenet121(), "concatenates or slices feature maps"),
        (lambda: torchvision.models.resnext50_32x4d(), "is a convolution with 32 groups"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "does not end in a classifier"),
    ],
)
def test_networks_without_a_rewriting(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        rewrite(make(), image_size_px=64)


def test_solve_meets_its_target_or_raises():
    assert abs(solve(lambda scale: round(1e6 * scale**2), 250_000, greatest=2.0) - 0.5) < 0.002
    with pytest.raises(ValueError, match="no width comes within 2 %"):
        solve(lambda scale: 100 * round(scale), 50, greatest=2.0)
    with pytest.raises(ValueError, match="no width comes within 2 %"):
        solve(lambda scale: round(1e6 * scale**2), 9_000_000, greatest=2.0)


@pytest.mark.seconds
def test_the_command_writes_a_file_that_recreates_the_network(tmp_path, capsys):
    words = ["study", "rewrite", "timm/mobilenetv2_050", "--image-size", "64"]
    main([*words, "--output", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "rewritten/timm/mobilenetv2_050" in shown and "MACs: " in shown
    report = json.loads((tmp_path / "out/report.json").read_text())
    config = RexNetConfig.from_dict(json.loads((tmp_path / "out/config.json").read_text()))
    assert report["config"]["blocks"][1]["out_channels"] == config.blocks[1].out_channels
    assert set(report["why"]) == {reason for change in report["changes"] for reason in change["reasons"]}
    again, preprocess = load_network("rewritten/timm/mobilenetv2_050", image_size=64)
    assert isinstance(again, RexNet) and again.config == config and preprocess.image_size_px == 64
    with pytest.raises(SystemExit) as stop:
        main([*words, "--output", str(tmp_path / "out/report.json")])
    assert stop.value.code == 1 and "a file; allowed: a folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no weights fit a rewritten"):
        load_network("rewritten/timm/mobilenetv2_050", pretrained=True)
