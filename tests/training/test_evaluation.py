from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import classification_report, f1_score
from torch import Tensor, nn

from rexnet.training.distributed import World
from rexnet.training.evaluation import evaluate

WORLD = World(device=torch.device("cpu"))


class Batch(NamedTuple):
    images: Tensor
    targets: Tensor


class Answers(nn.Module):
    """Its "images" (B, K) are the logits it answers with."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def batches(logits: Tensor, targets: Tensor, size: int) -> list[Batch]:
    return [Batch(*pair) for pair in zip(logits.split(size), targets.split(size), strict=True)]


@pytest.mark.parametrize("num_classes", [2, 4, 5, 6, 40])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_counts_equal_a_plain_count_at_any_batch_size(num_classes, batch_size):
    random = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(101, num_classes, generator=random)
    targets = torch.randint(num_classes, (101,), generator=random)
    classes = tuple(map(str, range(num_classes)))
    found = evaluate(Answers(), batches(logits, targets, batch_size), classes=classes, world=WORLD)

    order = np.argsort(-logits.numpy(), axis=1)
    right = order[:, 0] == targets.numpy()
    in_top5 = (order[:, :5] == targets.numpy()[:, None]).any(1)
    assert (found.num_images, sum(found.correct), found.correct_in_top5) == (101, right.sum(), in_top5.sum())
    for label in range(num_classes):
        mine = targets.numpy() == label
        called = (order[:, 0] == label).sum()
        assert (found.images[label], found.correct[label], found.called[label]) == (
            mine.sum(),
            (right & mine).sum(),
            called,
        )
    expected = nn.functional.cross_entropy(logits.double(), targets, reduction="sum")
    assert found.loss_sum == pytest.approx(float(expected), rel=1e-6)
    assert found.metrics()["top1"] == pytest.approx(100 * right.mean(), abs=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_have_no_accuracy(value):
    logits = torch.eye(3)
    logits[1, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        evaluate(Answers(), batches(logits, torch.tensor([0, 1, 2]), 2), classes=("a", "b", "c"), world=WORLD)


def test_a_class_without_images_has_no_accuracy():
    found = evaluate(Answers(), [Batch(torch.eye(3)[:2], torch.tensor([0, 2]))], classes=("a", "b", "c"), world=WORLD)
    assert found.by_class() == {
        "a": {"images": 1, "called": 1, "correct": 1, "precision": 100.0, "recall": 100.0, "f1": 100.0},
        "b": {"images": 0, "called": 1, "correct": 0, "precision": 0.0, "recall": None, "f1": None},
        "c": {"images": 1, "called": 0, "correct": 0, "precision": None, "recall": 0.0, "f1": 0.0},
    }
    assert (found.macro_recall, found.macro_f1) == (50.0, 50.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_classes", [2, 7, 30])
def test_fractions_and_macro_metrics_equal_scikit_learns(num_classes, seed):
    """Among 40 images of 30 classes some have none, and some are never called."""
    random = np.random.default_rng([num_classes, seed])
    targets = random.zipf(1.3, 40).clip(1, num_classes) - 1
    logits = random.normal(size=(40, num_classes)) + 2 * np.eye(num_classes)[targets]
    classes = tuple(map(str, range(num_classes)))
    pairs = batches(torch.tensor(logits), torch.tensor(targets), 7)
    found = evaluate(Answers(), pairs, classes=classes, world=WORLD)
    called, present = logits.argmax(1), np.unique(targets)
    report = classification_report(targets, called, labels=range(num_classes), output_dict=True, zero_division=0.0)
    for name, row in found.by_class().items():
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert (row[ours] or 0.0) == pytest.approx(100 * report[name][theirs], abs=1e-4)
        assert row["images"] == report[name]["support"]
    recalls = [100 * report[str(label)]["recall"] for label in present]
    assert found.macro_recall == pytest.approx(np.mean(recalls))
    expected = f1_score(targets, called, labels=present, average="macro", zero_division=0.0)
    assert found.macro_f1 == pytest.approx(100 * expected)
    figures = found.metrics()
    assert (figures["macro_recall"], figures["macro_f1"]) == (
        round(found.macro_recall, 4),
        round(found.macro_f1, 4),
    )


def test_an_empty_set_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="no image"):
        evaluate(Answers(), [], classes=("a", "b"), world=WORLD)


def test_the_network_is_evaluated_in_eval_mode_and_statistics_stay(tiny_model):
    model = tiny_model().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(4, 3, 16, 16)
    first = evaluate(model, [Batch(images, torch.arange(4) % 3)], classes=("a", "b", "c"), world=WORLD)
    second = evaluate(model, [Batch(images, torch.arange(4) % 3)], classes=("a", "b", "c"), world=WORLD)
    assert first == second and not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
