import copy

import pytest
import torch
from torch import nn

from rexnet.detection.detectors import build_detector
from rexnet.detection.norms import accept_single_values, prepare_norms
from rexnet.training.freezing import FrozenBatchNorm


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.named_buffers() if "running" in key or "tracked" in key}


def moved(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {key for key, value in statistics(model).items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize("kind", ["faster_rcnn", "ssdlite"])
@pytest.mark.parametrize("backbone", ["rexnet_010", "timm/efficientnet_b0"])
def test_only_pretrained_norms_are_frozen(tiny_detector, detection_batch, kind, backbone):
    model = tiny_detector(kind, backbone=backbone)
    plain = copy.deepcopy(model)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.backbone.body.modules())
    others = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) - norms
    sentence = prepare_norms(model, bn="auto", pretrained=True, images_per_batch=2)
    assert sentence == (
        f"batch norms: {norms} with frozen statistics, {others} with the statistics of each batch "
        "(auto: pretrained weights, 2 images per process and batch)"
    )
    assert bool(others) == (kind == "ssdlite") and norms > 30
    before = statistics(model)
    losses = model(*detection_batch(2))
    sum(losses.values()).backward()
    own = {key for key in before if not key.startswith("backbone.body.")}
    assert moved(before, model) == own and bool(own) == bool(others)
    assert all(parameter.requires_grad for parameter in model.parameters())
    # What follows a norm inside timm's is still there: frozen training is evaluation.
    image = torch.randn(1, 3, 64, 64)
    for ours, kept in zip(model.backbone.body.train()(image), plain.backbone.body.eval()(image), strict=True):
        torch.testing.assert_close(ours, kept, rtol=1e-4, atol=1e-4)
    plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("bn", "pretrained", "images", "frozen", "reason"),
    [
        ("auto", False, 2, False, "auto: random weights, 2 images per process and batch"),
        ("auto", True, 16, False, "auto: pretrained weights, 16 images per process and batch"),
        ("train", True, 2, False, "as given"),
        ("frozen", True, 64, True, "as given"),
    ],
)
def test_the_choice_follows_the_rule_of_classification(tiny_detector, bn, pretrained, images, frozen, reason):
    model = tiny_detector("ssdlite")
    assert reason in prepare_norms(model, bn=bn, pretrained=pretrained, images_per_batch=images)
    assert any(isinstance(module, FrozenBatchNorm) for module in model.modules()) == frozen


def test_random_statistics_are_not_frozen(tiny_detector):
    model = tiny_detector("ssdlite")
    with pytest.raises(ValueError, match="--bn is frozen; allowed: auto, train, because without --weights"):
        prepare_norms(model, bn="frozen", pretrained=False, images_per_batch=2)
    assert not any(isinstance(module, FrozenBatchNorm) for module in model.modules())


def test_a_single_value_per_channel_uses_the_running_statistics_without_updating_them():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, momentum=0.3, eps=1e-2))
    plain(torch.randn(4, 3, 6, 6))
    model = copy.deepcopy(plain)
    accept_single_values(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    one = torch.randn(1, 3, 1, 1)
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        copy.deepcopy(plain)(one)
    before = statistics(model)
    assert torch.equal(model(one), plain.eval()(one)) and not moved(before, model)
    more = torch.randn(1, 3, 2, 1)
    assert torch.equal(model(more), plain.train()(more)) and len(moved(before, model)) == 3
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_squeeze_excitation_of_one_image_keeps_its_statistics_while_the_rest_learns(tiny_detector, detection_batch):
    model = tiny_detector("faster_rcnn")
    before = statistics(model)
    model(*detection_batch(1))
    kept = before.keys() - moved(before, model)
    assert kept and all(".fc.1." in key for key in kept)
    model(*detection_batch(2))
    assert moved(before, model) == before.keys()


def test_detectors_share_no_norms(tiny_detector):
    model = tiny_detector("ssdlite")
    other = build_detector(model.config)
    mine = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert not mine & {id(tensor) for tensor in (*other.parameters(), *other.buffers())}
