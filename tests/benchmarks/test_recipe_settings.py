import sys

import pytest
import recipe_settings

import records
import runs


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the script where training is a function of the rate, best at 0.02; return the rows that results then hold."""
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(records, "commit", lambda: "0000000")
    monkeypatch.setattr(recipe_settings.Options, "find", lambda _self, data: data)

    def train(command, run, options):
        words = options.arguments.split()
        rate = float(words[words.index("--lr") + 1]) if words else 0.02
        return {"val_top1": 90 - abs(rate - 0.02) * 1000 - run.seed}

    monkeypatch.setattr(runs, "train_by_command", train)

    def call(*arguments: str) -> list[dict]:
        monkeypatch.setattr(sys, "argv", ["recipe_settings.py", str(tmp_path), *arguments])
        recipe_settings.main()
        return records.read(recipe_settings.NAME)

    return call


def test_trials_continue_and_the_best_are_confirmed_on_other_sets(call):
    call("--trials", "5")
    rows = call("--trials", "18")
    assert len(rows) == 18 and rows[0]["settings"] == {} and rows[0]["score"] == 89.5
    assert len({str(row["settings"]) for row in rows}) == 18
    late = [abs(row["settings"]["lr"] - 0.02) for row in rows[12:]]
    early = [abs(row["settings"]["lr"] - 0.02) for row in rows[1:9]]
    assert sorted(late)[2] < sorted(early)[3], "the sampler learns from the rows"
    rows = call("--confirm", "2")[18:]
    best = sorted(records.read(recipe_settings.NAME)[1:18], key=lambda row: -row["score"])
    assert [row["settings"] for row in rows] == [{}, best[0]["settings"], best[1]["settings"]]
    assert all(row["sets"] == list(recipe_settings.LEFT_OUT) for row in rows)
    assert call("--confirm", "2")[18:] == rows
