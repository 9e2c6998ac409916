import json
from collections import Counter

import pytest
import timm
import torchvision
from torch import nn

import rexnet
from rexnet.cli import main
from rexnet.study.principles import Limits, advise


def baseline():
    """Two bottlenecks as the baseline of the paper's Table 2: expansion 20, block ratio 0.22, ReLU6."""
    layers = []
    for inputs, outputs in ((10, 45), (45, 205)):
        wide = 20 * inputs
        layers += [nn.Conv2d(inputs, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.ReLU6(), nn.Conv2d(wide, outputs, 1)]
    return nn.Sequential(nn.Conv2d(3, 10, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(205, 100))


def test_the_papers_baseline_breaks_all_three_rules():
    advice = advise(baseline(), image_size_px=32)
    found = [(finding.layer, finding.rule, finding.found) for finding in advice.findings]
    assert found == [
        ("1", "expansion", "expansion 20.0"),
        ("1", "activation", "relu6 after 1x1"),
        ("6", "block ratio", "block ratio 0.22"),
        ("7", "expansion", "expansion 20.0"),
        ("7", "activation", "relu6 after 1x1"),
        ("12", "block ratio", "block ratio 0.22"),
    ]
    assert advice.findings[0].remedy == "input of 34 or more"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # Linear growth has low ratios where channels are few: 16 -> 27 -> 38 -> 50.
        (lambda: rexnet.create_model("rexnet_100"), {"block ratio": 3}),
        (lambda: timm.create_model("rexnet_100"), {"block ratio": 3}),
        (lambda: torchvision.models.mobilenet_v2(), {"block ratio": 6, "activation": 18}),
        (lambda: timm.create_model("mobilenetv2_100"), {"block ratio": 6, "activation": 18}),
        (lambda: torchvision.models.resnet50(), {"activation": 33}),
        (lambda: timm.create_model("efficientnet_b0"), {"block ratio": 6, "activation": 16}),
        (lambda: timm.create_model("convnext_atto"), {"penultimate": 1}),
    ],
)
def test_known_networks(make, expected):
    advice = advise(make(), image_size_px=96)
    assert {rule: count for rule, count in advice.by_rule().items() if count} == expected
    assert not advice.unseen


def test_only_early_blocks_of_a_rexnet_are_below_the_ratio_also_with_linear_channels():
    findings = advise(rexnet.create_model("rexnet_100"), image_size_px=96).findings
    assert [finding.found for finding in findings] == ["block ratio 0.59", "block ratio 0.71", "block ratio 0.76"]
    assert {finding.remedy for finding in findings} == {"a straight line is not better"}


def test_limits_decide():
    model = torchvision.models.mobilenet_v2()
    strict = Limits(greatest_expansion=5.9, least_block_ratio=0.6)
    counts = advise(model, image_size_px=96, limits=strict).by_rule()
    assert counts == {"expansion": 16, "block ratio": 2, "activation": 18, "penultimate": 0}
    for fields in ({"greatest_expansion": 0.5}, {"least_block_ratio": 0}, {"least_block_ratio": 1.5}):
        with pytest.raises(ValueError, match="allowed: "):
            Limits(**fields)


def make_clean():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 12, 1), nn.Hardswish())


def test_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["study", "advise", "torchvision/mobilenet_v2", "--format", "json", "--image-size", "96"])
    advice = json.loads(capsys.readouterr().out)
    assert stop.value.code == 1 and advice["model"] == "torchvision/mobilenet_v2" and advice["image_size_px"] == 96
    assert Counter(finding["rule"] for finding in advice["findings"]) == {"activation": 18, "block ratio": 6}
    first = advice["findings"][0]
    assert (first["layer"], first["kind"], first["ratio"]) == ("features.0.0", "3x3", 0.09375)
    assert first["macs"] == 48 * 48 * 27 * 32
    main(["study", "advise", "tests.study.principles.test_advice:make_clean"])
    assert capsys.readouterr().out.endswith("no layer breaks a rule\n")
    with pytest.raises(SystemExit) as stop:
        main(["study", "advise", "tests.study.principles.test_advice:baseline", "--image-size", "32"])
    shown = capsys.readouterr().out
    assert stop.value.code == 1 and "expansion 20.0" in shown and "2 expansion: " in shown


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["torchvision/nothing"], 2, "torchvision has no classifier 'nothing'"),
        (["rexnet_100", "--image-size", "4"], 2, "--image-size is 4; allowed: 8 or more, or None"),
        (["rewritten/rexnet_100"], 1, "the network has depthwise convolutions but is not a chain of stem"),
    ],
)
def test_networks_without_advice_are_refused(words, code, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["study", "advise", *words])
    assert stop.value.code == code and sentence in capsys.readouterr().err
