"""Classes of very different size: what the loss and the draw of images make of them."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rexnet.data.config import AugmentConfig
from rexnet.data.image_set import ArrayImages
from rexnet.data.loaders import Batch, EvalBatches, TrainBatches
from rexnet.data.preprocess import Preprocess
from rexnet.data.splits import class_weights
from rexnet.data.transforms import TrainTransform, batch_mixer
from rexnet.training.classification_loss import classification_loss, image_weights
from rexnet.training.classify import train
from rexnet.training.distributed import World
from rexnet.training.evaluation import evaluate
from rexnet.training.run_folder import RunFolder

CPU = torch.device("cpu")
WEIGHTS = torch.tensor([0.5, 2.0, 5.0])
TARGETS = torch.tensor([0, 1, 2, 0])


class Answers(nn.Module):
    """Its "images" (B, K) are the logits it answers with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def loss_of(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0, weights=WEIGHTS) -> torch.Tensor:
    batch = Batch(logits, targets, torch.arange(len(logits)))
    losses = classification_loss(Answers(), batch, device=CPU, label_smoothing=label_smoothing, weights=weights)
    return losses["loss"]


@pytest.fixture
def logits():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class TestLoss:
    def test_golden(self):
        """Two classes, evenly probable: each image costs ln 2, times its weight, over the number of images."""
        weights = torch.tensor([0.75, 1.5])
        found = loss_of(torch.zeros(3, 2), torch.tensor([0, 0, 1]), weights=weights)
        assert float(found) == pytest.approx(math.log(2) * (0.75 + 0.75 + 1.5) / 3)

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_each_image_is_weighted_and_its_smooth_target_is_not(self, logits, smoothing):
        singles = [
            WEIGHTS[target] * functional.cross_entropy(row[None], target[None], label_smoothing=smoothing)
            for row, target in zip(logits, TARGETS, strict=True)
        ]
        assert float(loss_of(logits, TARGETS, smoothing)) == pytest.approx(float(sum(singles)) / 4)

    def test_weights_of_one_change_nothing(self, logits):
        expected = loss_of(logits, TARGETS, 0.1, weights=None)
        assert float(loss_of(logits, TARGETS, 0.1, weights=torch.ones(3))) == pytest.approx(float(expected))

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_soft_targets_of_whole_images_weigh_as_indices(self, logits, smoothing):
        soft = functional.one_hot(TARGETS, 3) * (1 - smoothing) + smoothing / 3
        assert image_weights(soft, WEIGHTS, smoothing).tolist() == pytest.approx(WEIGHTS[TARGETS].tolist())
        assert float(loss_of(logits, soft, smoothing)) == pytest.approx(float(loss_of(logits, TARGETS, smoothing)))

    @pytest.mark.parametrize("mixing", [{"mixup": 0.5}, {"cutmix": 1.0}])
    def test_a_mixed_image_has_the_mean_weight_of_its_parts(self, mixing):
        np.random.seed(0)
        mixer = batch_mixer(AugmentConfig(label_smoothing=0.1, **mixing), 3)
        assert mixer is not None
        _, soft = mixer(torch.rand(4, 3, 16, 16), TARGETS)
        shares = (soft - 0.1 / 3) / 0.9
        assert ((shares > 0.01) & (shares < 0.99)).any(), "something was mixed"
        assert image_weights(soft, WEIGHTS, 0.1).tolist() == pytest.approx((shares @ WEIGHTS).tolist(), rel=1e-4)

    def test_parts_of_a_batch_average_to_the_whole(self, logits):
        """So that several processes have the gradient of one, whatever classes each happens to see."""
        halves = [loss_of(logits[part], TARGETS[part]) for part in (slice(0, 2), slice(2, 4))]
        assert float(sum(halves)) / 2 == pytest.approx(float(loss_of(logits, TARGETS)))

    def test_mixed_precision_rounds_no_weights(self, logits):
        soft = functional.one_hot(TARGETS, 3) * 0.9 + 0.1 / 3
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss_of(logits, soft, 0.1)
        assert found.dtype == torch.float32 and float(found) == pytest.approx(float(loss_of(logits, soft, 0.1)))


def brightness(counts: tuple[int, int], seed: int) -> ArrayImages:
    """Even gray images of a dark and a bright class whose brightness overlaps."""
    random = np.random.default_rng(seed)
    targets = np.repeat([0, 1], counts)
    levels = (random.normal(0, 25, len(targets)) + np.where(targets, 150, 105)).clip(0, 255).astype(np.uint8)
    pixels = np.broadcast_to(levels[:, None, None], (len(targets), 4, 4))
    return ArrayImages(pixels, targets, ("dark", "bright"), label="gray", numbers=np.arange(len(targets)))


@pytest.mark.parametrize("seed", range(3))
def test_both_balances_recognise_a_minority_of_5_percent(seed):
    preprocess = Preprocess(image_size_px=4, crop_ratio=1.0)
    images, val = brightness((380, 20), seed), brightness((100, 100), 100 + seed)
    weights = torch.tensor(class_weights(images.targets, 2), dtype=torch.float32)
    figures = {}
    for balance in ("none", "loss", "sampler"):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        transform = TrainTransform(preprocess, AugmentConfig())
        batches = TrainBatches(images, transform, batch_size=50, seed=seed, balanced=balance == "sampler")
        for epoch in range(8):
            for batch in batches.epoch(epoch):
                optimizer.zero_grad()
                chosen = weights if balance == "loss" else None
                classification_loss(model, batch, device=CPU, label_smoothing=0.1, weights=chosen)["loss"].backward()
                optimizer.step()
        found = evaluate(
            model,
            EvalBatches(val, preprocess, batch_size=100),
            classes=images.classes,
            world=World(device=CPU),
        )
        figures[balance] = found.by_class()["bright"]["recall"], found.macro_recall
    assert figures["none"][0] < 40, figures
    for balance in ("loss", "sampler"):
        assert figures[balance][0] > figures["none"][0] + 30 and figures[balance][1] > figures["none"][1] + 10, figures


@pytest.fixture
def uneven(image_folder) -> Path:
    """36 images to train on, of which the class fox has 2 in place of 12."""
    for number in range(2, 12):
        next((image_folder / "train" / "fox").glob(f"{number}.*")).unlink()
    return image_folder


@pytest.mark.seconds
def test_a_run_uses_the_requested_balance(tiny_config, changed, uneven, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    short = changed(tiny_config, "schedule", epochs=1, warmup_epochs=0.0)
    losses = {}
    for balance in ("none", "loss", "sampler"):
        config = changed(changed(short, "input", balance=balance), "run", output=str(tmp_path / balance))
        losses[balance] = train(config)["best"]["train_loss"]
        assert ("weights from 0.722 to 4.33 in the loss" in caplog.text) == (balance == "loss")
        caplog.clear()
    assert len(set(losses.values())) == 3
    assert "no effect" not in caplog.text


@pytest.mark.seconds
@pytest.mark.parametrize("balance", ["loss", "sampler"])
def test_a_balance_without_effect_is_logged(tiny_config, changed, balance, caplog):
    train(changed(changed(tiny_config, "schedule", epochs=1), "input", balance=balance))
    assert f"--balance {balance} has no effect: each class has 12 training images" in caplog.text


@pytest.mark.parametrize("goal", ["top1", "macro_recall", "macro_f1"])
def test_the_monitored_metric_selects_the_best_epoch(tiny_config, changed, uneven, monkeypatch, caplog, goal):
    """Each figure is highest in another epoch."""
    from rexnet.training import classify

    caplog.set_level(logging.INFO)
    values = {"top1": (9.0, 5.0, 5.0), "macro_recall": (4.0, 8.0, 4.0), "macro_f1": (3.0, 3.0, 7.0)}
    epochs = iter(range(3))

    class Found:
        def metrics(self):
            epoch = next(epochs)
            return {name: row[epoch] for name, row in values.items()} | {"loss": 1.0, "images": 12}

    monkeypatch.setattr(classify, "evaluate", lambda *_, **__: Found())
    config = replace(tiny_config, goal=goal)
    summary = train(config)
    assert summary["goal"] == goal and summary["best"]["epoch"] == list(values).index(goal) + 1
    name = {"top1": "top-1", "macro_recall": "macro recall", "macro_f1": "macro F1"}[goal]
    assert f"best {name} {max(values[goal]):.2f} %, of epoch {summary['best']['epoch']}" in caplog.text
    assert RunFolder(config.run.output).read("config.json")["goal"] == goal


def test_another_balance_or_number_of_shots_is_another_run(tiny_config, changed, caplog):
    config = changed(changed(tiny_config, "schedule", epochs=1), "input", shots=3)
    train(config)
    run = RunFolder(config.run.output)
    assert (run.data_facts().train_images, run.data_facts().val_images) == (9, 12)
    for option, value in (("shots", 2), ("shots", None), ("balance", "sampler")):
        other = changed(changed(config, "input", **{option: value}), "run", resume=True)
        with pytest.raises(ValueError, match=f"--{option} {value} \\(was"):
            train(other)
    with pytest.raises(ValueError, match="--goal macro_f1"):
        train(changed(replace(config, goal="macro_f1"), "run", resume=True))
