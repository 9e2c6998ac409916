import json
import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from rexnet.training import checkpoint
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import World
from rexnet.training.loop import NonFiniteError, choose_autocast, fit, step_seed
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
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        self.asked.append(epoch)
        random = torch.Generator().manual_seed(0 if self.fixed else epoch)
        for step in range(self.steps):
            images = torch.randn(6, 3, 16, 16, generator=random)
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
        fit(
            model,
            Noise() if batches is None else batches,
            loss=loss,
            evaluate=evaluate,
            pack=partial(checkpoint.pack, classes=CLASSES, preprocess=tiny_preprocess),
            name_image="noise/{}".format,
            config=config,
            run=run,
            world=WORLD,
        )
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


def test_a_run_is_repeatable_and_its_seed_matters(run_fit, changed, tiny_config):
    _, first = run_fit("first")
    torch.manual_seed(77)
    _, second = run_fit("second")
    assert_same_run(first, second)
    _, other = run_fit("other", config=changed(tiny_config, "run", seed=4))
    assert figures(other) != figures(first)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


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

    def counted_save(path, content):
        calls["save"] += path.name == "last.pt"
        if (calls["save"] == 2 and at == "last") or (calls["row"] == 2 and at == "best" and path.name == "best.pt"):
            raise Killed
        if calls["save"] == 2 and at == "inside last":
            path.with_name(f".{path.name}.unfinished").write_bytes(b"half a checkpoint")
            raise Killed
        save(path, content)

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


def test_a_finished_run_resumed_changes_nothing(run_fit):
    _, run = run_fit("run")
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.suffix in (".pt", ".jsonl")}
    batches = Noise()
    run_fit("run", batches=batches)
    assert batches.asked == []
    assert {name: (run.path / name).read_bytes() for name in before} == before


def test_a_truncated_last_checkpoint_is_one_sentence(run_fit):
    _, run = run_fit("run")
    run.last.write_bytes(run.last.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"last\.pt' is damaged") as refused:
        run_fit("run")
    assert "\n" not in str(refused.value)
    assert checkpoint.load(run.best).classes == CLASSES


def test_overfits_one_small_batch(run_fit, tiny_config, changed, tiny_model):
    config = changed(changed(tiny_config, "schedule", epochs=30, warmup_epochs=2.0), "optim", lr=0.2, ema_decay=None)
    _, run = run_fit("run", batches=Noise(4, fixed=True), config=config)
    first, *_, last = run.rows()
    assert first["train_top1"] < 60 and last["train_top1"] > 95 and last["train_loss"] < 0.2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_the_run_and_names_the_images(run_fit, tiny_model, value):
    seen = {"calls": 0}

    def spoiled(model, batch):
        losses = cross_entropy(model, batch)
        seen["calls"] += 1
        if seen["calls"] == 5:
            seen["weights"] = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
            seen["model"] = model
            losses["loss"] = losses["loss"] * value
        return losses

    straight = run_fit("straight")[1]
    with pytest.raises(NonFiniteError) as stopped:
        run_fit("run", loss=spoiled)
    run = RunFolder(straight.path.parent / "run")
    sentence = str(stopped.value)
    assert f"loss is {value}" in sentence and "noise/6, noise/7, noise/8, noise/9 and 2 more" in sentence
    assert "epoch 2" in sentence and "\n" not in sentence
    assert run.read("non_finite.0.json")["images"] == [f"noise/{index}" for index in range(6, 12)]
    for key, parameter in seen["model"].named_parameters():
        assert torch.equal(seen["weights"][key], parameter), key
    for path in (run.last, run.best):
        state = checkpoint.read(path)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())
    assert figures(run) == figures(straight)[:1]
    # The data mended, the run goes on as if nothing had been.
    run_fit("run")
    assert_same_run(straight, run)


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


def test_the_average_is_what_is_evaluated_and_kept(run_fit, tiny_model):
    seen = []
    model, run = run_fit("run", evaluate=lambda network: seen.append(network) or mean_logit(network))
    assert all(network is not model for network in seen)
    kept, last = checkpoint.load(run.last).state_dict(), checkpoint.read(run.last)
    assert all(torch.equal(kept[key], value) for key, value in seen[-1].state_dict().items())
    raw = last["training"]["updater"]["model"]
    assert all(torch.equal(raw[key], value) for key, value in model.state_dict().items())


def test_a_scalar_loss_will_do(run_fit):
    _, run = run_fit("run", loss=lambda model, batch: cross_entropy(model, batch)["loss"])
    assert [set(row) & {"train_loss", "train_top1"} for row in run.rows()] == [{"train_loss"}] * 3


def test_ctrl_c_leaves_the_checkpoint_of_the_last_whole_epoch(run_fit):
    calls = iter(range(100))

    def interrupted(model, batch):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return cross_entropy(model, batch)

    straight = run_fit("straight")[1]
    with pytest.raises(KeyboardInterrupt):
        run_fit("run", loss=interrupted)
    run = run_fit("run")[1]
    assert_same_run(straight, run)


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


def test_step_seeds_differ_by_seed_step_and_rank():
    seeds = {step_seed(seed, step, rank) for seed in range(5) for step in range(50) for rank in range(4)}
    assert len(seeds) == 1000


def test_a_warm_up_without_end_is_said(run_fit, tiny_config, changed, caplog):
    run_fit("run", config=changed(tiny_config, "schedule", epochs=1, warmup_epochs=5.0))
    assert "the learning rate only rises" in caplog.text


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

    row = fit(
        tiny_model(),
        Noise(4, fixed=True),
        loss=loss,
        evaluate=lambda model: {"top1": 0.0},
        pack=partial(checkpoint.pack, classes=CLASSES, preprocess=tiny_preprocess),
        name_image=str,
        config=changed(changed(tiny_config, "run", amp=amp), "schedule", epochs=15),
        run=run,
        world=World(device=device),
    )
    assert math.isfinite(row["train_loss"]) and checkpoint.load(run.last).classes == CLASSES
