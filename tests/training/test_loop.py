import json
import logging
import math
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from rexnet.errors import NonFiniteError
from rexnet.training import checkpoint
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import World
from rexnet.training.interruption import Stopped
from rexnet.training.loop import Task, choose_autocast, fit
from rexnet.training.optimization import MAX_DISCARDED_STEPS
from rexnet.training.run_folder import RunFolder

WORLD = World(device=torch.device("cpu"))
CLASSES = ("a", "b", "c")


class Batch(NamedTuple):
    images: Tensor
    targets: Tensor
    indices: Tensor


class Noise:
    """`steps` batches of six images of noise, other ones in each epoch unless `fixed`."""

    def __init__(self, steps: int = 3, *, fixed: bool = False):
        self.steps, self.fixed = steps, fixed
        self.images_per_batch, self.num_images = 6, 6 * steps
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        self.asked.append(epoch)
        random = torch.Generator().manual_seed(0 if self.fixed else epoch)
        for step in range(self.steps):
            images = torch.randn(6, 3, 16, 16, generator=random)
            if step >= start_step:
                yield Batch(images, torch.arange(6) % 3, torch.arange(6) + 6 * step)


def cross_entropy(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    logits = model(batch.images)
    hits = (logits.argmax(1) == batch.targets).float()
    return {"loss": nn.functional.cross_entropy(logits, batch.targets), "top1": 100 * hits.mean()}


def mean_logit(model: nn.Module) -> dict[str, float]:
    with torch.inference_mode():
        return {"top1": float(model.eval()(torch.ones(1, 3, 16, 16)).sum())}


@pytest.fixture
def run_fit(tiny_model, tiny_config, tiny_preprocess, tmp_path):
    """run_fit(folder, ...): fits a tiny network on noise and returns it."""

    def run(
        folder: str, *, batches=None, loss=cross_entropy, evaluate=mean_logit, config: TrainConfig = tiny_config, **drop
    ):
        model, run = tiny_model(**drop), RunFolder(tmp_path / folder)
        run.path.mkdir(exist_ok=True)
        pack = partial(checkpoint.pack, classes=CLASSES, preprocess=tiny_preprocess)
        task = Task(loss=loss, evaluate=evaluate, pack=pack, name_image="noise/{}".format)
        fit(model, Noise() if batches is None else batches, task, config=config, run=run, world=WORLD)
        return model, run

    return run


def figures(run: RunFolder) -> list[dict]:
    """The rows without what the clock says."""
    clock = ("seconds", "images_per_second", "wait_share")
    return [{key: value for key, value in row.items() if key not in clock} for row in run.rows()]


def assert_same_run(first: RunFolder, second: RunFolder) -> None:
    """Equal weights, averages, optimizer states and figures, bit for bit."""
    for name in ("last", "best"):
        contents = [checkpoint.read(getattr(run, name)) for run in (first, second)]
        for content in contents:
            for row in (content["metrics"], content.get("training", {}).get("best", {})):
                for clock in ("seconds", "images_per_second", "wait_share"):
                    row.pop(clock, None)
        flat = [dict(_flatten(content)) for content in contents]
        assert flat[0].keys() == flat[1].keys()
        for key, value in flat[0].items():
            same = torch.equal(value, flat[1][key]) if isinstance(value, Tensor) else value == flat[1][key]
            assert same, f"{name}.pt: {key}"
    assert figures(first) == figures(second)


def _flatten(value, prefix=""):
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flatten(inner, f"{prefix}/{key}")
    else:
        yield prefix, value


@pytest.mark.seconds
def test_a_run_is_repeatable_and_its_seed_matters(run_fit, changed, tiny_config):
    _, first = run_fit("first")
    torch.manual_seed(77)
    _, second = run_fit("second")
    assert_same_run(first, second)
    _, other = run_fit("other", config=changed(tiny_config, "run", seed=4))
    assert figures(other) != figures(first)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.seconds
@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("at", ["second batch", "row", "best", "last", "inside last"])
def test_killed_anywhere_and_resumed_equals_uninterrupted(run_fit, tiny_config, changed, monkeypatch, at, average):
    config = changed(tiny_config, "optim", ema_decay=average)
    _, straight = run_fit("straight", config=config)
    calls = {"loss": 0, "save": 0, "row": 0}
    save, append = checkpoint.save, RunFolder.append

    def counted_loss(model, batch):
        calls["loss"] += 1
        if at == "second batch" and calls["loss"] == 5:
            raise Killed
        return cross_entropy(model, batch)

    def counted_save(path, content, **more):
        calls["save"] += path.name == "last.pt"
        if (calls["save"] == 2 and at == "last") or (calls["row"] == 2 and at == "best" and path.name == "best.pt"):
            raise Killed
        if calls["save"] == 2 and at == "inside last":
            path.with_name(f".{path.name}.unfinished").write_bytes(b"half a checkpoint")
            raise Killed
        save(path, content, **more)

    def counted_append(self, row):
        append(self, row)
        calls["row"] += 1
        if calls["row"] == 2 and at == "row":
            raise Killed

    def higher_every_epoch(model):
        return {"top1": mean_logit(model)["top1"] + 1000 * (1 + calls["row"])}

    rising = higher_every_epoch if at == "best" else mean_logit
    if at == "best":
        calls["row"] = 0
        _, straight = run_fit("straight best", config=config, evaluate=_rising())
        rising = _rising()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save", counted_save)
        patch.setattr(RunFolder, "append", counted_append)
        run_fit("stopped", config=config, loss=counted_loss, evaluate=rising)
    batches = Noise()
    _, resumed = run_fit("stopped", config=config, batches=batches, evaluate=_rising(1) if at == "best" else mean_logit)
    assert batches.asked == [1, 2]
    assert_same_run(straight, resumed)


def _rising(done_epochs: int = 0):
    """An evaluation that calls every epoch the best so far."""
    epochs = iter(range(done_epochs, 100))
    return lambda model: {"top1": float(next(epochs))}


def test_resuming_a_finished_run_changes_nothing_and_names_the_command_to_extend_it(run_fit, caplog):
    _, run = run_fit("run")
    caplog.set_level(logging.INFO, "rexnet")
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.suffix in (".pt", ".jsonl")}
    batches = Noise()
    run_fit("run", batches=batches)
    assert batches.asked == []
    assert "finished after" in caplog.text and f"--resume {run.path} --epochs MORE" in caplog.text
    assert {name: (run.path / name).read_bytes() for name in before} == before


@pytest.mark.seconds
def test_a_damaged_last_checkpoint_is_replaced_by_the_previous_one(run_fit, caplog):
    _, straight = run_fit("straight")
    _, run = run_fit("run")
    run.last.write_bytes(run.last.read_bytes()[:-1000])
    batches = Noise()
    run_fit("run", batches=batches)
    assert batches.asked == [2], "the one before is that of the second epoch"
    assert f"continuing from the older {run.previous}" in caplog.text and "is damaged" in caplog.text
    assert_same_run(straight, run)
    for file in (run.last, run.previous):
        file.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read; --overwrite starts over") as refused:
        run_fit("run")
    assert "\n" not in str(refused.value)


def test_a_run_without_progress_stops_early(run_fit, tiny_config, changed):
    config = changed(tiny_config, "schedule", epochs=9, patience=2)
    scores = iter([1.0, 3.0, 2.0, 3.0, 9.0])
    _, run = run_fit("run", config=config, evaluate=lambda model: {"top1": next(scores)})
    assert [row["val_top1"] for row in run.rows()] == [1.0, 3.0, 2.0, 3.0], "two epochs no higher than the best"
    _, run = run_fit("run", config=config, evaluate=lambda model: {"top1": next(scores)})
    assert len(run.rows()) == 4, "resumed, it is still over"


@pytest.mark.seconds
def test_overfits_one_small_batch(run_fit, tiny_config, changed, tiny_model):
    config = changed(changed(tiny_config, "schedule", epochs=30, warmup_epochs=2.0), "optim", lr=0.2, ema_decay=None)
    _, run = run_fit("run", batches=Noise(4, fixed=True), config=config)
    first, *_, last = run.rows()
    assert first["train_top1"] < 60 and last["train_top1"] > 95 and last["train_loss"] < 0.2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "images"])
def test_a_non_finite_step_is_skipped_without_a_trace(run_fit, tiny_model, caplog, value, where):
    seen = {"calls": 0}

    def state_of(model):
        return {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}

    def spoiled(model, batch):
        seen["calls"] += 1
        if seen["calls"] == 6:
            seen["after"] = state_of(model)
        if seen["calls"] != 5:
            return cross_entropy(model, batch)
        seen["before"] = state_of(model)
        if where == "images":
            return cross_entropy(model, batch._replace(images=batch.images * value))
        losses = cross_entropy(model, batch)
        return {**losses, "loss": losses["loss"] * value}

    run = run_fit("run", loss=spoiled)[1]
    assert all(torch.equal(tensor, seen["after"][key]) for key, tensor in seen["before"].items())
    row = json.loads((run.path / "discarded_steps.jsonl").read_text())
    assert row["images"] == [f"noise/{index}" for index in range(6, 12)] and (row["epoch"], row["step"]) == (2, 4)
    assert "step 4 was skipped because the" in caplog.text and "noise/6, noise/7" in caplog.text
    assert [row.get("discarded_steps") for row in run.rows()] == [None, 1, None]
    assert all(math.isfinite(value) for row in run.rows() for value in row.values())
    for path in (run.last, run.best):
        state = checkpoint.read(path)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_too_many_non_finite_steps_end_the_run(run_fit):
    steps = MAX_DISCARDED_STEPS + 4
    calls = iter(range(1000))

    def spoiled(model, batch):
        losses = cross_entropy(model, batch)
        return losses if next(calls) < steps else {**losses, "loss": losses["loss"] * float("nan")}

    with pytest.raises(NonFiniteError, match="11 of 14 steps of epoch 2 were skipped") as end:
        run_fit("run", loss=spoiled, batches=Noise(steps))
    assert "\n" not in str(end.value)


def test_an_epoch_of_non_finite_steps_alone_ends_the_run(run_fit):
    def spoiled(model, batch):
        losses = cross_entropy(model, batch)
        return {**losses, "loss": losses["loss"] * float("nan")}

    with pytest.raises(NonFiniteError, match="3 of 3 steps of epoch 1 were skipped"):
        run_fit("run", loss=spoiled, batches=Noise(3))


def test_best_is_the_best_epoch_and_last_the_last(run_fit, tiny_config):
    scores = iter([1.0, 3.0, 2.0])
    _, run = run_fit("run", evaluate=lambda model: {"top1": next(scores), "mean": 0.5})
    assert checkpoint.read(run.best)["metrics"]["epoch"] == 2
    assert checkpoint.read(run.last)["metrics"]["epoch"] == 3
    assert "training" not in checkpoint.read(run.best)
    rows = run.rows()
    assert [row["val_top1"] for row in rows] == [1.0, 3.0, 2.0]
    assert {"epoch", "lr", "train_loss", "train_top1", "val_mean", "images_per_second", "wait_share", "seconds"} <= set(
        rows[0]
    )
    assert all(math.isfinite(value) for row in rows for value in row.values())
    json.dumps(rows, allow_nan=False)


def test_the_average_is_evaluated_and_saved(run_fit, tiny_model):
    seen = []
    model, run = run_fit("run", evaluate=lambda network: seen.append(network) or mean_logit(network))
    assert all(network is not model for network in seen)
    kept, last = checkpoint.load(run.last).state_dict(), checkpoint.read(run.last)
    assert all(torch.equal(kept[key], value) for key, value in seen[-1].state_dict().items())
    raw = last["training"]["updater"]["model"]
    assert all(torch.equal(raw[key], value) for key, value in model.state_dict().items())


@pytest.mark.seconds
def test_a_scalar_loss_is_allowed(run_fit):
    _, run = run_fit("run", loss=lambda model, batch: cross_entropy(model, batch)["loss"])
    assert [set(row) & {"train_loss", "train_top1"} for row in run.rows()] == [{"train_loss"}] * 3


@pytest.mark.seconds
@pytest.mark.parametrize("at", [0, 1, 4, 7, 8])
@pytest.mark.parametrize("optim", [{}, {"ema_decay": 0.9}, {"norm_images": 12}, {"norm_images": 12, "ema_decay": 0.9}])
def test_stopped_in_any_step_and_resumed_equals_uninterrupted(run_fit, tiny_config, changed, at, optim, capfd):
    config = changed(tiny_config, "optim", **optim)
    calls, acknowledged = iter(range(100)), []

    def asked(model, batch):
        if torch.is_grad_enabled() and next(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # as a terminal's, which reaches a process twice through torchrun
            acknowledged.append(capfd.readouterr().err)
        return cross_entropy(model, batch)

    straight = run_fit("straight", config=config)[1]
    with WORLD.stop.listening(), pytest.raises(Stopped) as stopped:
        run_fit("run", loss=asked, config=config)
    assert stopped.value.exit_code == 143
    assert [text.count("SIGTERM: the run is saved and stops after this step") for text in acknowledged] == [1]
    forget_the_request()
    content = checkpoint.read(RunFolder(straight.path.parent / "run").last)
    assert (content["training"]["epoch"], content["training"]["step"]) == (at // 3, at % 3 + 1)
    assert_same_run(straight, run_fit("run", config=config)[1])


def test_stopped_in_the_evaluation(run_fit):
    def asked(model):
        os.kill(os.getpid(), signal.SIGINT)
        assert WORLD.stop.requested
        raise WORLD.stop.stopped()

    straight = run_fit("straight")[1]
    with WORLD.stop.listening(), pytest.raises(Stopped) as stopped:
        run_fit("run", evaluate=asked)
    assert stopped.value.exit_code == 130
    forget_the_request()
    batches = Noise()
    assert_same_run(straight, run_fit("run", batches=batches)[1])
    assert batches.asked == [0, 1, 2]


def test_saves_inside_an_epoch_and_continues_from_there(run_fit, tiny_config, changed):
    often = changed(tiny_config, "run", save_minutes=1e-9)
    straight = run_fit("straight")[1]
    calls = iter(range(100))

    def killed(model, batch):
        if next(calls) == 5:
            raise Killed
        return cross_entropy(model, batch)

    with pytest.raises(Killed):
        run_fit("run", loss=killed, config=often)
    content = checkpoint.read(RunFolder(straight.path.parent / "run").last)
    assert (content["training"]["epoch"], content["training"]["step"]) == (1, 2)
    assert_same_run(straight, run_fit("run")[1])


def forget_the_request():
    WORLD.stop._signal = None


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(run_fit, tiny_config, changed, amp):
    config = changed(changed(tiny_config, "run", amp=amp), "schedule", epochs=2)
    seen = []

    def loss(model, batch):
        losses = cross_entropy(model, batch)
        seen.append(model(batch.images).dtype)
        return losses

    _, run = run_fit("run", config=config, loss=loss)
    assert set(seen) == {torch.bfloat16 if amp == "bf16" else torch.float16}
    state = checkpoint.read(run.last)["state_dict"]
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in state.values())


def test_choice_of_precision():
    cpu = torch.device("cpu")
    assert choose_autocast("auto", cpu) is None and choose_autocast("off", cpu) is None
    assert choose_autocast("bf16", cpu) == torch.bfloat16


@pytest.mark.slow
def test_compiled_training_is_the_same_training(run_fit, tiny_config, changed):
    config = changed(tiny_config, "schedule", epochs=1)
    # The compiler draws other random numbers.
    nothing_dropped = {"drop_rate": 0.0, "drop_path_rate": 0.0}
    _, eager = run_fit("eager", config=config, **nothing_dropped)
    _, compiled = run_fit("compiled", config=changed(config, "run", compile=True), **nothing_dropped)
    first, second = (checkpoint.read(run.last)["state_dict"] for run in (eager, compiled))
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["auto", "fp16", "off"])
def test_trains_on_a_gpu(tiny_model, tiny_config, tiny_preprocess, changed, tmp_path, amp):
    device = torch.device("cuda")
    run = RunFolder(tmp_path)

    def loss(model, batch):
        moved = Batch(batch.images.to(device), batch.targets.to(device), batch.indices)
        return cross_entropy(model, moved)

    pack = partial(checkpoint.pack, classes=CLASSES, preprocess=tiny_preprocess)
    task = Task(loss=loss, evaluate=lambda model: {"top1": 0.0}, pack=pack, name_image=str)
    config = changed(changed(tiny_config, "run", amp=amp), "schedule", epochs=15)
    row = fit(tiny_model(), Noise(4, fixed=True), task, config=config, run=run, world=World(device=device))
    assert math.isfinite(row["train_loss"]) and checkpoint.load(run.last).classes == CLASSES
