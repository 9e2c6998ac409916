import logging
import shlex
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from rexnet import cli
from rexnet.errors import OptionError
from rexnet.training import checkpoint, loop, session, time_budget
from rexnet.training.classify import shorter_options, train
from rexnet.training.config import TrainConfig
from rexnet.training.distributed import World
from rexnet.training.loop import Task
from rexnet.training.progress import EpochProgress
from rexnet.training.run_folder import RunFolder
from rexnet.training.time_budget import Speed, TimeLimit, choose_epochs, measure_speed

WORLD = World(device=torch.device("cpu"))


@pytest.fixture
def choose(monkeypatch, tiny_config, changed):
    """choose(minutes, epochs, speed, recipe): the settings that are chosen 100 s after the start, and the epochs for
    which the speed was measured."""
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: 1100.0)

    def run(minutes, epochs, speed, recipe=lambda config: config) -> tuple[TrainConfig, list[int]]:
        measured = []

        def with_epochs(epochs: int) -> TrainConfig:
            return recipe(changed(tiny_config, "schedule", epochs=epochs, max_minutes=minutes))

        def measure(config: TrainConfig) -> Speed:
            measured.append(config.schedule.epochs)
            return speed(config)

        chosen = choose_epochs(with_epochs(epochs), TimeLimit(1000.0, with_epochs), measure, world=WORLD)
        return chosen, measured

    return run


def test_as_many_epochs_as_fit_and_no_more_than_the_recipe_has(choose, caplog):
    caplog.set_level(logging.INFO, "rexnet")
    speed = Speed(start=20.0, step=1.5, evaluation=10.0, steps=20)
    config, measured = choose(10, 100, lambda _: speed)
    # 600 s - 100 s since the start - 20 s to start: 480 s, of which 95 % are 11.4 epochs of 40 s.
    assert (config.schedule.epochs, measured) == (11, [100])
    assert config.schedule.measured == {
        "minutes": 10, "seconds_per_step": 1.5, "seconds_per_evaluation": 10.0, "epochs": 11
    }  # fmt: skip
    assert "11 of 100 epochs of 40 s (20 steps of 1.5 s, 10 s for evaluation and saving); 8 min left" in caplog.text
    assert choose(10, 5, lambda _: speed)[0].schedule.epochs == 5
    with pytest.raises(OptionError, match=r"--max-minutes is 2, but an epoch takes 40 s .* 2 min .*; allowed: 2.8 or"):
        choose(2, 100, lambda _: speed)


def test_settings_that_follow_the_epochs_are_measured_too(choose, changed):
    def recipe(config: TrainConfig) -> TrainConfig:
        few = config.schedule.epochs <= 30
        config = changed(config, "schedule", warmup_epochs=0.2 * config.schedule.epochs)
        return changed(config, "optim", optimizer="muon" if few else "sgd")

    def speed(few: float, many: float):
        def of(config: TrainConfig) -> Speed:
            return Speed(start=0.0, step=few if config.optim.optimizer == "muon" else many, evaluation=0.0, steps=10)

        return of

    config, measured = choose(20, 100, speed(few=5.0, many=4.0), recipe)  # 1045 s: 26 of 40 s, 20 of 50 s
    assert (config.schedule.epochs, config.optim.optimizer, measured) == (20, "muon", [100, 26])
    assert config.schedule.measured["seconds_per_step"] == 5.0 and config.schedule.warmup_epochs == 4.0
    config, measured = choose(20, 100, speed(few=2.0, many=4.0), recipe)
    assert (config.schedule.epochs, measured) == (26, [100, 26]), "never back to settings that take longer"
    config, measured = choose(20, 100, speed(few=9.0, many=2.0), recipe)
    assert (config.schedule.epochs, config.optim.optimizer, measured) == (52, "sgd", [100])


class Batch(NamedTuple):
    images: torch.Tensor
    indices: torch.Tensor


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_speed_is_that_of_steps_evaluation_and_checkpoint(
    tiny_model, tiny_config, changed, monkeypatch, accumulate
):
    """Reading a batch takes 2 s, training on it 3 s and the first time 7 s more, evaluating 0.5 s, saving 4 s."""
    now = [0.0]
    batch = Batch(torch.zeros(4, 3, 16, 16), torch.arange(4))

    class Endless:
        images_per_batch, num_images = 4, 400

        def __len__(self):
            return 100

        def __iter__(self):
            return self.epoch(0)

        def epoch(self, epoch, start_step=0):
            for _ in range(3):  # also where an epoch ends before the measuring does
                now[0] += 2.0
                yield batch

    def loss(model, _batch):
        now[0] += 10.0 if not model.steps else 3.0
        model.steps += 1
        return model(_batch.images).square().mean()

    def evaluate(batches):
        for _ in batches:
            now[0] -= 1.5
        return {"top1": 0.0}

    def save(*_, **__):
        now[0] += 2.0

    monkeypatch.setattr(checkpoint, "save", save)
    model = tiny_model()
    model.steps = 0
    config = changed(changed(tiny_config, "run", accumulate=accumulate), "schedule", epochs=50, max_minutes=10.0)
    speed = measure_speed(
        model,
        (Endless(), Endless()),
        lambda val: Task(loss=loss, evaluate=lambda _: evaluate(val), pack=lambda *_: {}, name_image=str),
        config=config,
        world=WORLD,
        clock=lambda: now[0],
    )
    assert speed.steps == 100 // accumulate and speed.step == pytest.approx(5.0 * accumulate)
    assert speed.start == pytest.approx(7.0)
    assert speed.evaluation == pytest.approx(100 * 0.5 + 4.0)


def same_weights(first: RunFolder, second: RunFolder) -> bool:
    one, two = (checkpoint.read(run.last) for run in (first, second))
    tensors = [(one["state_dict"], two["state_dict"])]
    tensors.append((one["training"]["updater"].get("model", {}), two["training"]["updater"].get("model", {})))
    return all(torch.equal(value, other[key]) for each, other in tensors for key, value in each.items())


LINE = "train {data} --model rexnet_010 --image-size 32 --batch-size 8 --device cpu --threads 1 --workers 0 --output"


@pytest.mark.seconds
def test_the_run_is_that_of_the_epochs_typed_and_a_resumed_one_keeps_them(image_folder, tmp_path, monkeypatch, caplog):
    """A really measured run: its settings, augmentation and optimizer included, follow the epochs that were chosen."""
    typed = shlex.split(LINE.format(data=shlex.quote(str(image_folder))))
    measure = session.measure_speed

    def slow(*args, **kwargs) -> Speed:  # however fast this machine is, 2 epochs fit
        speed = measure(*args, **kwargs)
        assert speed.step > 0 and speed.evaluation > 0 and speed.steps == 5
        return Speed(start=0.0, step=1.0, evaluation=2e6 - 5.0, steps=5)

    monkeypatch.setattr(session, "measure_speed", slow)
    cli.main([*typed, str(tmp_path / "timed"), "--max-minutes", str(5e6 / 60)])
    monkeypatch.setattr(session, "measure_speed", lambda *_, **__: pytest.fail("measured again"))
    cli.main([*typed, str(tmp_path / "typed"), "--epochs", "2"])
    timed, plain = RunFolder(tmp_path / "timed"), RunFolder(tmp_path / "typed")
    assert same_weights(timed, plain) and len(timed.rows()) == 2
    settings, others = timed.read("config.json"), plain.read("config.json")
    assert settings["schedule"].pop("measured") == {
        "minutes": 5e6 / 60, "seconds_per_step": 1.0, "seconds_per_evaluation": 2e6 - 5.0, "epochs": 2
    }  # fmt: skip
    assert settings["schedule"].pop("max_minutes") and settings["budget"] == others["budget"]
    assert (settings["optim"], settings["augment"]) == (others["optim"], others["augment"])

    calls, step = iter(range(100)), loop.Training._run_step

    def killed(*args) -> None:
        if next(calls) == 7:
            raise KeyboardInterrupt
        step(*args)

    monkeypatch.setattr(session, "measure_speed", lambda *_, **__: Speed(0.0, 1.0, 2e6 - 5.0, 5))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Training, "_run_step", killed)
        train_line(typed, tmp_path / "late", "--max-minutes", str(5e6 / 60))
    monkeypatch.setattr(session, "measure_speed", lambda *_, **__: pytest.fail("measured again"))
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: 1e9)
    cli.main(["train", "--resume", str(tmp_path / "late")])
    assert same_weights(RunFolder(tmp_path / "late"), plain)


def train_line(typed: list[str], output, *more: str) -> None:
    """The command without what the command line makes of an interrupt."""
    from rexnet.cli.classification import train

    train([*typed[1:], str(output), *more])


def test_settings_of_a_program_keep_their_epochs_when_resumed(tiny_config, changed, monkeypatch):
    monkeypatch.setattr(session, "measure_speed", lambda *_, **__: Speed(0.0, 1.0, 2e6 - 5.0, 5))
    config = changed(tiny_config, "schedule", max_minutes=3e6 / 60)
    train(config)
    monkeypatch.setattr(session, "measure_speed", lambda *_, **__: pytest.fail("measured again"))
    summary = train(replace(config, run=replace(config.run, resume=True)))
    assert summary["best"]["epoch"] == 1


def test_epochs_and_minutes_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "digits", "--epochs", "3", "--max-minutes", "10"])
    assert stop.value.code == 2
    assert "--max-minutes is 10 and --epochs 3" in capsys.readouterr().err


def test_a_run_of_hours_on_a_cpu_is_warned_of_once(tiny_config, monkeypatch, caplog):
    monkeypatch.setattr(EpochProgress, "is_measured", property(lambda self: self._done == 2))
    monkeypatch.setattr(EpochProgress, "step_seconds", property(lambda self: 1000.0))
    train(tiny_config)  # 3 epochs of 5 steps; 2 are done
    (warning,) = [message for message in caplog.messages if "on this CPU" in message]
    assert warning == "this run will take about 3 h 37 min on this CPU"


def test_options_that_make_a_run_short(tiny_config, changed):
    config = changed(tiny_config, "input", image_size=160)
    assert shorter_options(config) == ("--image-size 96",)
    config = changed(changed(config, "network", weights="x.pt"), "input", image_size=32)
    assert shorter_options(config) == ("--freeze all",)
    assert shorter_options(changed(config, "transfer", freeze="all")) == ()
