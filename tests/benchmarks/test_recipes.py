import sys

import pytest
import torch

import recipes
import records
import rivals
import runs
from tests.drawings import draw_folder


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the script on 72 drawn images; return the rows that results then hold."""
    data = draw_folder(tmp_path / "data", train=24, val=4)
    monkeypatch.setattr(runs, "find_set", lambda *_, **__: str(data))
    monkeypatch.setattr(records, "RESULTS", tmp_path)

    def run(*arguments: str) -> list[dict]:
        monkeypatch.setattr(sys, "argv", ["recipes.py", str(tmp_path), "--sets", "flowers17", *arguments])
        recipes.main()
        return records.read(recipes.NAME)

    return run


@pytest.mark.slow
def test_every_contender_trains_and_is_recorded_once(call, capsys):
    contenders = ("rexnet", *rivals.RIVALS)
    arguments = ("--contenders", *contenders, "--epochs", "1", "--seeds", "0")
    rows = call(*arguments)
    assert [row["contender"] for row in rows] == list(contenders)
    for row in rows:
        assert 0 <= row["top1_percent"] <= 100 and row["minutes"] >= 0
        assert row["processor_minutes"] >= 0
        assert (row["set"], row["epochs"], row["seed"], row["image_px"]) == ("flowers17", 1, 0, 64)
        assert row["batch_size"] == (8 if row["contender"] == "rexnet" else 32), "the recipe's for few images"
    assert "6 runs, 0.00 hours" in capsys.readouterr().out
    assert call(*arguments) == rows


def test_hours_are_those_of_recorded_rows_with_as_many_threads(call, capsys):
    for seed, minutes, threads in ((0, 10, 1), (1, 20, 1), (2, 30, 1), (0, 90, 2)):
        row = runs.Run("flowers17", "rexnet", 5, seed)._asdict()
        records.append(recipes.NAME, {**row, "minutes": minutes, "threads": threads})
    options = recipes.Options(
        shared=None, sets=("flowers17",), contenders=("rexnet",), epochs=(20, 60), seeds=(0,), threads=1
    )
    benchmark = runs.Benchmark(recipes.NAME, options, {}, rexnet=pytest.fail, make_loop=pytest.fail, setting={})
    benchmark.print_hours(options.runs(), records.read(recipes.NAME))
    assert "2 runs, 5.33 hours, from recorded minutes\n2 runs, 5.33 hours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rival", "rates"),
    [
        ("timm", [1e-5, 0.002508, 0.005006, 0.007504, 0.010002, 0.00625]),
        ("torchvision", [0.0125] * 4 + [0.00125] * 2),
    ],
)
def test_rates_by_epoch_are_those_of_the_reference(rival, rates):
    budget = rivals.Budget(image_px=32, batch_size=32, epochs=10, steps_per_epoch=2)
    descent = rivals.RIVALS[rival](torch.nn.Linear(2, 2), budget).descent
    seen = []
    for epoch in range(len(rates)):
        seen.append(descent.optimizer.param_groups[0]["lr"])
        descent.optimizer.step()
        descent.after_epoch(epoch + 1)
    assert seen == pytest.approx(rates)


@pytest.mark.parametrize(("rival", "first", "highest"), [("plain", 4e-3 / 25, 4e-3), ("sgd", 0.0125, 0.0125)])
def test_rates_by_step_end_at_zero(rival, first, highest):
    budget = rivals.Budget(image_px=32, batch_size=32, epochs=10, steps_per_epoch=10)
    descent = rivals.RIVALS[rival](torch.nn.Linear(2, 2), budget).descent
    seen = []
    for _ in range(100):
        seen.append(descent.optimizer.param_groups[0]["lr"])
        descent.optimizer.step()
        if len(seen) < 100:
            descent.after_step()
    assert seen[0] == pytest.approx(first) and max(seen) == pytest.approx(highest, rel=1e-3) and seen[-1] < 2e-5


@pytest.mark.parametrize("task", recipes.TASKS.values(), ids=recipes.TASKS)
def test_the_command_trains_the_network_of_the_loops(task):
    command = task.command("DATA")
    assert command[command.index("--stem-stride") + 1] == ("1" if task.image_px == 32 else "2")
