import copy

import pytest
import torch
from torch import nn

from rexnet.models.blocks import DropPath
from rexnet.models.factory import create_model
from rexnet.training.config import OptimConfig, ScheduleConfig, TransferConfig
from rexnet.training.freezing import FrozenBatchNorm, freeze, layer_number, prepare
from rexnet.training.optimization import LearningRate, Updater

RATE = LearningRate(peak_lr=0.1, schedule=ScheduleConfig(epochs=9, warmup_epochs=0), steps_per_epoch=20)


def train_steps(model: nn.Module, steps: int = 20, **optim) -> Updater:
    updates = Updater(model, OptimConfig(weight_decay=0.01, **optim), RATE, scale_gradients=False)
    for step in range(steps):
        model.train()
        updates.begin()
        images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(images), torch.arange(6) % 3)
        if step == 3:
            updates.backward(loss * float("nan"))
            assert not updates.finish(step)
            updates.discard()
        else:
            updates.backward(loss)
            assert updates.finish(step)
            updates.apply(step)
    return updates


def changed_layers(model: nn.Module, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[int]:
    return {layer_number(model, key) for key in before if not torch.equal(before[key], after[key])}


@pytest.mark.parametrize(("depth", "moving"), [(0, {0, 1, 2, 3, 4, 5}), (1, {2, 3, 4, 5}), (3, {4, 5}), ("all", {5})])
def test_only_frozen_layers_stay_bit_identical(tiny_model, depth, moving):
    model = tiny_model()
    freeze(model, depth, statistics=False)
    before = copy.deepcopy(model.state_dict())
    updates = train_steps(model, ema_decay=0.9)
    assert changed_layers(model, before, model.state_dict()) == moving
    assert changed_layers(model, before, updates.evaluated.state_dict()) == moving
    trained = {id(parameter) for group in updates.optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert all(parameter.grad is None for parameter in model.parameters() if id(parameter) not in trained)


@pytest.mark.parametrize("statistics", [False, True])
def test_frozen_statistics_stay_and_scale_and_shift_are_trained(tiny_model, statistics):
    model = tiny_model()
    freeze(model, 0, statistics=statistics)
    before = copy.deepcopy(model.state_dict())
    updates = train_steps(model, ema_decay=0.9)
    for state in (model.state_dict(), updates.evaluated.state_dict()):
        moved = {key for key in before if not torch.equal(before[key], state[key])}
        buffers = {key for key in before if "running" in key or "tracked" in key}
        assert len(buffers) > 20 and (moved & buffers == (set() if statistics else buffers))
        # A bias before a norm that takes each batch's statistics has no gradient.
        assert moved >= {key for key, parameter in model.named_parameters() if parameter.ndim > 1 or "fc" not in key}


def test_a_frozen_network_stays_in_eval_mode_during_training(tiny_model):
    model = tiny_model(drop_rate=0.0)
    plain, state = copy.deepcopy(model).eval(), model.state_dict()
    freeze(model, "all", statistics=False)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.train()(images), plain(images), rtol=0, atol=1e-6)
    assert not any(isinstance(module, DropPath | nn.BatchNorm2d) for module in model.modules())
    assert list(model.state_dict()) == list(state)
    fresh = tiny_model(seed=5)
    fresh.load_state_dict(model.state_dict())


def test_the_head_of_a_lite_network_keeps_its_norm():
    model = create_model("rexnet_lite", width=0.2, num_classes=3)
    freeze(model, "all", statistics=False)
    assert [type(layer) for layer in model.output][1] is nn.BatchNorm2d
    freeze(model, 0, statistics=True)
    assert [type(layer) for layer in model.output][1] is FrozenBatchNorm


def test_layers_are_counted_from_the_stem_to_the_head():
    model = create_model("rexnet_100")
    numbers = [layer_number(model, name) for name, _ in model.named_parameters()]
    assert numbers == sorted(numbers) and set(numbers) == set(range(19))
    assert layer_number(model, "features.1.weight") == 0 and layer_number(model, "features.3.out.0.weight") == 1
    assert layer_number(model, "features.18.out.0.weight") == 16 and layer_number(model, "features.20.bias") == 17


@pytest.mark.parametrize(
    ("bn", "pretrained", "images", "frozen", "reason"),
    [
        ("auto", False, 2, False, "auto: random weights, 2 images per process and batch"),
        ("auto", True, 15, True, "auto: pretrained weights, 15 images per process and batch"),
        ("auto", True, 16, False, "auto: pretrained weights, 16 images per process and batch"),
        ("frozen", True, 64, True, "as given"),
        ("train", True, 2, False, "as given"),
    ],
)
def test_the_choice_is_logged_with_its_reason(tiny_model, bn, pretrained, images, frozen, reason):
    model = tiny_model()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    sentence = prepare(model, TransferConfig(bn=bn), pretrained=pretrained, images_per_batch=images)
    counts = (norms, 0) if frozen else (0, norms)
    assert sentence == "batch norms: {} with frozen statistics, {} with the statistics of each batch ({})".format(
        *counts, reason
    )
    sentence = prepare(tiny_model(), TransferConfig(freeze="all"), pretrained=True, images_per_batch=images)
    assert f"batch norms: {norms} with frozen statistics, 0 with" in sentence and "; frozen: " in sentence


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            TransferConfig(bn="frozen"),
            "--bn is frozen; allowed: auto, train, because without --weights",
        ),
        (TransferConfig(freeze=2), "--freeze is 2; allowed: 0"),
        (TransferConfig(freeze="all"), "--freeze is all; allowed: 0"),
        (TransferConfig(freeze=4), "--freeze is 4; allowed: 0 to 3 for tiny, or all"),
    ],
)
def test_random_weights_and_missing_blocks_are_refused(tiny_model, config, sentence):
    model = tiny_model()
    with pytest.raises(ValueError) as refused:
        prepare(model, config, pretrained=False, images_per_batch=32)
    assert sentence in str(refused.value)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"--freeze is -1; allowed: 0 or more, or all"):
        TransferConfig(freeze=-1)
    with pytest.raises(ValueError, match="--bn is train, but --freeze all"):
        TransferConfig(freeze="all", bn="train")
