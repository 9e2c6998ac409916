import io
import math
from dataclasses import replace

import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from rexnet.models.factory import create_model
from rexnet.training.config import OptimConfig, ScheduleConfig
from rexnet.training.optimization import LearningRate, Updater, check_optimizer, make_optimizer

PAPER = LearningRate(peak_lr=0.5, schedule=ScheduleConfig(epochs=400, warmup_epochs=5.0), steps_per_epoch=2502)


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 1e-5),
        (1, 1e-5 + (0.5 - 1e-5) / 12510),
        (6255, 0.250005),
        (12509, 0.4999600327737810),
        (12510, 0.4998072590601808),
        (500_400, 0.25),
        (750_600, 0.25 * (1 - math.sqrt(0.5))),
        (1_000_799, 1.2317e-12),
    ],
)
def test_golden_learning_rates_of_the_paper(step, lr):
    assert PAPER(step) == pytest.approx(lr, rel=1e-4)


@pytest.mark.parametrize("warmup_epochs", [0.0, 1.0, 2.5])
def test_learning_rate_equals_timms_at_every_step(warmup_epochs):
    schedule = ScheduleConfig(epochs=6, warmup_epochs=warmup_epochs, warmup_lr=0.003, min_lr=0.001)
    rate = LearningRate(peak_lr=0.2, schedule=schedule, steps_per_epoch=10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    theirs = CosineLRScheduler(
        optimizer, t_initial=60, lr_min=0.001, warmup_t=int(warmup_epochs * 10), warmup_lr_init=0.003, t_in_epochs=False
    )
    for step in range(60):
        theirs.step_update(step)
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_milestones_equal_torchs_at_every_step():
    schedule = ScheduleConfig(epochs=6, warmup_epochs=0.0, schedule="multistep", decay_milestones=(2, 5))
    rate = LearningRate(peak_lr=0.2, schedule=schedule, steps_per_epoch=10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 50])
    for step in range(60):
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["rexnet_100", "rexnet_lite_100", "rexnet_plain"])
def test_weight_decay_skips_only_norms_and_biases(name):
    model = create_model(name)
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.01), lr=0.1)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    spared = {
        id(parameter)
        for module in model.modules()
        for key, parameter in module.named_parameters(recurse=False)
        if isinstance(module, nn.BatchNorm2d) or key == "bias"
    }
    assert spared and len(decay) == len(list(model.parameters()))
    for parameter in model.parameters():
        assert decay[id(parameter)] == (0.0 if id(parameter) in spared else 0.01)


def test_sgd_is_nesterov_and_momentum_is_not(tiny_model):
    for name, nesterov in (("sgd", True), ("momentum", False)):
        group = make_optimizer(tiny_model(), OptimConfig(optimizer=name, momentum=0.8), lr=0.1).param_groups[0]
        assert (group["nesterov"], group["momentum"], group["lr"]) == (nesterov, 0.8, 0.1)


def test_an_unknown_optimizer_is_named_with_the_allowed_ones(tiny_model):
    with pytest.raises(ValueError, match=r"--optimizer is 'sdg'; allowed: .* sgd"):
        make_optimizer(tiny_model(), OptimConfig(optimizer="sdg"), lr=0.1)


@pytest.mark.parametrize(
    ("optim", "schedule", "said"),
    [
        ({"optimizer": "adamw", "momentum": 0.8}, {}, ["--momentum has no effect with --optimizer adamw"]),
        ({}, {"schedule": "constant", "min_lr": 0.1}, ["--min-lr has no effect with --schedule constant"]),
        ({}, {"decay_milestones": (3,)}, ["--decay-milestones has no effect with --schedule cosine"]),
        (
            {},
            {"schedule": "multistep", "decay_milestones": (3, 8, 11), "epochs": 8},
            ["--decay-milestones 8 11 has no effect with --epochs 8"],
        ),
        ({}, {"warmup_epochs": 0.0, "warmup_lr": 0.1}, ["--warmup-lr has no effect with no warm-up"]),
        ({"momentum": 0.8}, {"min_lr": 0.1, "warmup_lr": 0.1}, []),
        ({"optimizer": "rmsprop", "momentum": 0.8}, {"schedule": "multistep", "decay_milestones": (3,)}, []),
        ({"optimizer": "adamw"}, {"schedule": "constant", "warmup_epochs": 0.0}, []),
    ],
)
def test_options_without_effect_are_logged(tiny_model, caplog, optim, schedule, said):
    check_optimizer(tiny_model(), OptimConfig(**optim), ScheduleConfig(**schedule), total_batch=512)
    assert caplog.messages == said


def updater(model: nn.Module, *, scale_gradients: bool = False, **config) -> Updater:
    rate = LearningRate(
        peak_lr=0.1, schedule=ScheduleConfig(epochs=4, warmup_epochs=1.0, warmup_lr=0.01), steps_per_epoch=5
    )
    return Updater(model, OptimConfig(**config), rate, scale_gradients=scale_gradients)


def update(updates: Updater, loss: torch.Tensor, step: int) -> bool:
    updates.begin()
    updates.backward(loss)
    finite = updates.finish(step)
    if finite:
        updates.apply(step)
    return finite


def loss_of(model: nn.Module, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, 16, 16, generator=random)
    return nn.functional.cross_entropy(model(images), torch.arange(6) % 3)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], *, only_parameters: bool = False):
    assert first.keys() == second.keys()
    for key in first:
        if not (only_parameters and ("running" in key or "tracked" in key)):
            assert torch.equal(first[key], second[key]), key


def test_each_update_uses_the_rate_of_its_step(tiny_model):
    model = tiny_model()
    updates = updater(model)
    for step in (0, 3, 12):
        assert update(updates, loss_of(model), step)
        assert {group["lr"] for group in updates.optimizer.param_groups} == {updates.rate(step)}


def test_the_average_follows_its_definition(tiny_model):
    model = tiny_model()
    updates = updater(model, ema_decay=0.6)
    average = snapshot(model)
    for step in range(12):
        update(updates, loss_of(model, step), step)
        # The decay grows to 0.6: that of update n is min(0.6, 1 - n^(-2/3)), with n counted from 0 for the first.
        decay = min(0.6, 1 - (1 + step) ** (-2 / 3)) if step else 0.0
        for key, value in model.state_dict().items():
            average[key] = value.clone() if value.dtype == torch.int64 else decay * average[key] + (1 - decay) * value
    for key, value in updates.evaluated.state_dict().items():
        torch.testing.assert_close(value, average[key], msg=key)
    assert not updates.evaluated.training and model.training


class _SpoiledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * float("inf")


@pytest.mark.parametrize("spoil", [lambda x: x * float("nan"), lambda x: x / 0, _SpoiledGradient.apply])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_non_finite_values_reach_neither_weights_nor_average_nor_optimizer(tiny_model, spoil, optimizer):
    model = tiny_model()
    updates = updater(model, optimizer=optimizer, ema_decay=0.9, clip_grad=1.0)
    assert update(updates, loss_of(model), 0)
    weights, average = snapshot(model), snapshot(updates.evaluated)
    assert not update(updates, spoil(loss_of(model, 1)), 1)
    assert_equal(weights, snapshot(model), only_parameters=True)
    assert_equal(average, snapshot(updates.evaluated))
    state = [value for values in updates.optimizer.state.values() for value in values.values()]
    assert all(torch.as_tensor(value).isfinite().all() for value in state if value is not None)


def test_an_fp16_overflow_skips_the_step_and_lowers_the_scale(tiny_model):
    model = tiny_model()
    updates = updater(model, scale_gradients=True)
    weights, scale = snapshot(model), updates.scaler.get_scale()
    assert update(updates, _SpoiledGradient.apply(loss_of(model)), 0)
    assert_equal(weights, snapshot(model), only_parameters=True)
    assert updates.scaler.get_scale() < scale
    assert not update(updates, loss_of(model) * float("nan"), 1)


def test_clipping_bounds_the_whole_gradient(tiny_model):
    model = tiny_model()
    updates = updater(model, optimizer="momentum", momentum=0.0, weight_decay=0.0, clip_grad=1e-3)
    before = snapshot(model)
    update(updates, loss_of(model), 5)
    moved = torch.cat([(value.detach() - before[key]).flatten() for key, value in model.named_parameters()])
    assert float(moved.norm()) == pytest.approx(1e-3 * updates.rate(5), rel=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"ema_decay": 0.9},
        {"optimizer": "adamw", "ema_decay": 0.9},
        {"optimizer": "lamb"},
        {"layer_decay": 0.7, "ema_decay": 0.9},
    ],
)
def test_a_restored_state_continues_bit_for_bit(tiny_model, config):
    model = tiny_model(drop_rate=0.0, drop_path_rate=0.0)
    updates = updater(model, **config)
    for step in range(3):
        update(updates, loss_of(model, step), step)
    evaluated, state = snapshot(updates.evaluated), torch.load(_saved(updates.state()), weights_only=True)

    other = tiny_model(seed=9, drop_rate=0.0, drop_path_rate=0.0)
    resumed = updater(other, **config)
    resumed.restore(evaluated, state)
    for step in range(3, 6):
        update(updates, loss_of(model, step), step)
        update(resumed, loss_of(other, step), step)
    assert_equal(snapshot(model), snapshot(other))
    assert_equal(snapshot(updates.evaluated), snapshot(resumed.evaluated))


def _saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "multistep"])
def test_restarts_are_shorter_schedules_one_after_the_other(name):
    def rates(**schedule) -> list[float]:
        options = ScheduleConfig(schedule=name, warmup_epochs=1.0, min_lr=0.01, **schedule)
        return [
            LearningRate(peak_lr=0.4, schedule=options, steps_per_epoch=7)(step) for step in range(options.epochs * 7)
        ]

    stones = ((1, 3, 5, 7), (1,), (1,), (1, 3)) if name == "multistep" else (None,) * 4
    whole = rates(epochs=9, restart_epochs=(2, 4), decay_milestones=stones[0])
    parts = zip((2, 2, 5), stones[1:], strict=True)
    assert whole == pytest.approx([rate for epochs, at in parts for rate in rates(epochs=epochs, decay_milestones=at)])


def test_a_warm_up_takes_half_of_a_short_run_at_most():
    schedule = replace(ScheduleConfig(), epochs=1, warmup_epochs=5.0, warmup_lr=0.0)
    rate = LearningRate(peak_lr=1.0, schedule=schedule, steps_per_epoch=10)
    assert [rate(step) for step in range(5)] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert rate(5) == pytest.approx(0.5) and rate(9) == pytest.approx(0.0245, rel=1e-2)


def test_each_layer_has_its_fraction_of_the_rate_at_every_step():
    model = create_model("rexnet_100")
    rate = LearningRate(peak_lr=0.4, schedule=ScheduleConfig(epochs=4, warmup_epochs=0.0), steps_per_epoch=5)
    updates = Updater(model, OptimConfig(layer_decay=0.8, weight_decay=0.01), rate, scale_gradients=False)
    for step in (0, 7):
        loss = torch.stack([parameter.sum() for parameter in model.parameters()]).sum()
        update(updates, loss, step)
        lr = {id(p): group["lr"] for group in updates.optimizer.param_groups for p in group["params"]}
        golden = {"output.1.weight": 1.0, "output.1.bias": 1.0, "features.19.weight": 0.8, "features.20.bias": 0.8}
        golden |= {"features.0.weight": 0.8**18, "features.1.weight": 0.8**18}
        golden |= {f"features.{3 + block}.out.0.weight": 0.8 ** (17 - block) for block in range(16)}
        named = dict(model.named_parameters())
        assert len(lr) == len(named)
        for name, share in golden.items():
            assert lr[id(named[name])] == pytest.approx(rate(step) * share, rel=1e-12), name
    decays = {id(p): group["weight_decay"] for group in updates.optimizer.param_groups for p in group["params"]}
    assert all(decays[id(p)] == (0.01 if p.ndim > 1 else 0.0) for p in model.parameters())


def test_layers_of_other_networks_are_refused():
    with pytest.raises(ValueError, match=r"--layer-decay is 0\.5, but layer decay needs a ReXNet"):
        make_optimizer(nn.Linear(2, 2), OptimConfig(layer_decay=0.5), lr=0.1)
