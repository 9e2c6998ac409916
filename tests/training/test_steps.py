"""Steps of several batches: --accumulate."""

import json
import logging
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from rexnet.training import checkpoint
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import World
from rexnet.training.freezing import freeze_statistics
from rexnet.training.loop import Task, fit
from rexnet.training.run_folder import RunFolder
from rexnet.training.steps import group_batches, step_seed, total_batch
from tests.training.test_loop import Batch, cross_entropy, mean_logit

WORLD = World(device=torch.device("cpu"))
IMAGES = 22


class Noise:
    """The same 22 images in every epoch, in batches of `size`."""

    def __init__(self, size: int):
        self.images_per_batch, self.num_images = size, IMAGES
        images = torch.randn(IMAGES, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        indices = torch.arange(IMAGES)
        parts = (part.split(size) for part in (images, indices % 3, indices))
        self.batches = [Batch(*part) for part in zip(*parts, strict=True)]

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        return iter(self.batches[start_step:])


@pytest.fixture
def run_fit(tiny_model, tiny_config, tiny_preprocess, tmp_path, changed):
    """run_fit(folder, batch size, accumulate, ...): fits a tiny network that drops nothing; returns its run folder."""

    def run(folder: str, size: int, accumulate: int, *, loss=cross_entropy, frozen=False, **settings) -> RunFolder:
        model, run = tiny_model(drop_rate=0.0, drop_path_rate=0.0), RunFolder(tmp_path / folder)
        if frozen:
            freeze_statistics(model)
        run.path.mkdir(exist_ok=True)
        config: TrainConfig = changed(tiny_config, "run", accumulate=accumulate, **settings)
        pack = partial(checkpoint.pack, classes=("a", "b", "c"), preprocess=tiny_preprocess)
        task = Task(loss=loss, evaluate=mean_logit, pack=pack, name_image="noise/{}".format)
        fit(model, Noise(size), task, config=config, run=run, world=WORLD)
        return run

    return run


@pytest.mark.seconds
@pytest.mark.parametrize(("size", "accumulate"), [(4, 3), (3, 4), (2, 6), (8, 99)])
def test_accumulated_steps_are_those_of_one_large_batch(run_fit, size, accumulate):
    """With the rest of an epoch, 22 images in steps of 12, and one step an epoch where there are fewer images."""
    large = run_fit("large", min(size * accumulate, IMAGES), 1, frozen=True)
    small = run_fit("small", size, accumulate, frozen=True)
    for first, second in zip(large.rows(), small.rows(), strict=True):
        for name in ("lr", "train_loss", "train_top1", "val_top1"):
            assert second[name] == pytest.approx(first[name], rel=1e-4), name
    one, two = (checkpoint.read(run.last) for run in (large, small))
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, rtol=1e-4, atol=1e-6, msg=key)
    for key, value in one["training"]["updater"]["model"].items():
        torch.testing.assert_close(two["training"]["updater"]["model"][key], value, rtol=1e-4, atol=1e-6, msg=key)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.seconds
def test_killed_inside_a_step_and_resumed_equals_uninterrupted(run_fit):
    calls = iter(range(100))

    def killed(model, batch):
        if next(calls) == 10:  # of 6 batches, 3 steps an epoch: the first batch of the last step of the second epoch
            raise Killed
        return cross_entropy(model, batch)

    straight = run_fit("straight", 4, 2)
    with pytest.raises(Killed):
        run_fit("run", 4, 2, loss=killed, save_minutes=1e-9)
    training = checkpoint.read(RunFolder(straight.path.parent / "run").last)["training"]
    assert (training["epoch"], training["step"]) == (1, 2)
    resumed = run_fit("run", 4, 2)
    first, second = (checkpoint.read(run.last) for run in (straight, resumed))
    assert all(torch.equal(value, second["state_dict"][key]) for key, value in first["state_dict"].items())
    assert [row["train_loss"] for row in straight.rows()] == [row["train_loss"] for row in resumed.rows()]


def test_a_batch_that_is_not_finite_discards_its_whole_step(run_fit, caplog):
    seen = {"calls": 0}

    def spoiled(model, batch):
        seen["calls"] += 1
        state = {key: value.clone() for key, value in model.state_dict().items()}
        if seen["calls"] in (3, 5):  # the second step begins, and after it the third
            seen[seen["calls"]] = state
        return cross_entropy(model, batch._replace(images=batch.images * (float("nan") if seen["calls"] == 4 else 1)))

    run = run_fit("run", 4, 2, loss=spoiled)
    assert all(torch.equal(value, seen[5][key]) for key, value in seen[3].items())
    (row,) = run.rows("discarded_steps.jsonl")
    assert row["images"] == [f"noise/{index}" for index in range(8, 16)] and (row["epoch"], row["step"]) == (1, 1)
    assert json.dumps(run.rows(), allow_nan=False) and "step 1 was skipped" in caplog.text


@pytest.mark.parametrize(
    ("images", "size", "world_size", "accumulate", "total"),
    [(1000, 32, 1, 1, 32), (1000, 32, 2, 4, 256), (48, 32, 1, 2, 48), (40, 40, 1, 3, 40), (5, 3, 2, 1, 6)],
)
def test_the_total_batch_is_limited_by_the_number_of_images(
    tiny_config, changed, images, size, world_size, accumulate, total
):
    config = changed(tiny_config, "run", accumulate=accumulate)
    batches, world = SimpleNamespace(images_per_batch=size, num_images=images), SimpleNamespace(size=world_size)
    assert total_batch(batches, config, world) == total


def test_the_rate_and_the_log_follow_the_accumulated_batch(run_fit, caplog):
    caplog.set_level(logging.INFO, "rexnet")
    run = run_fit("run", 4, 2)
    assert "peak learning rate 0.05 for a total batch of 8 " in caplog.text
    steps = checkpoint.read(run.last)["training"]["updater"]["model"]["features.1.num_batches_tracked"]
    assert int(steps) == 3 * 6, "batch norms see every batch"


def test_the_rest_of_the_batches_is_a_step():
    assert list(group_batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(group_batches([], 3)) == []


def test_step_seeds_differ_by_seed_step_and_rank():
    seeds = {step_seed(seed, step, rank) for seed in range(5) for step in range(50) for rank in range(4)}
    assert len(seeds) == 1000
