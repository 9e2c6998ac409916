import sys

import pytest
import torch

import finetune
import records
import runs
from rexnet.files import digest_of
from rexnet.training import checkpoint
from tests.drawings import draw_folder


@pytest.mark.slow
def test_contenders_start_from_the_weights_and_are_recorded_once_for_each(
    tiny_model, tiny_preprocess, tmp_path, monkeypatch, capsys
):
    data = draw_folder(tmp_path / "data", train=8, val=2)
    files = [tmp_path / f"{seed}.pt" for seed in (0, 1)]
    for seed, file in enumerate(files):
        content = checkpoint.pack(tiny_model(seed), {}, classes=("a", "b", "c"), preprocess=tiny_preprocess)
        checkpoint.save(file, content)
    monkeypatch.setattr(runs, "find_set", lambda *_, **__: str(data))
    monkeypatch.setattr(records, "RESULTS", tmp_path)

    def run(file, *contenders):
        options = ["--weights", str(file), "--sets", "flowers17", "--epochs", "1", "--seeds", "0"]
        monkeypatch.setattr(
            sys,
            "argv",
            ["finetune.py", str(tmp_path), *options, *(["--contenders", *contenders] if contenders else [])],
        )
        finetune.main()
        return records.read(finetune.NAME)

    rows = run(files[0])
    assert [row["contender"] for row in rows] == ["finetune", "probe", "plain", "plain-low", "scratch"]
    for row in rows:
        assert 0 <= row["top1_percent"] <= 100 and row["minutes"] >= 0
        assert row["weights_sha256"] == digest_of(files[0]) and row["width"] is None
    assert run(files[0]) == rows
    *_, other = run(files[1], "probe")
    assert (other["contender"], other["weights_sha256"]) == ("probe", digest_of(files[1]))
    assert "1 runs, " in capsys.readouterr().out


def test_the_loop_of_rivals_starts_from_the_weights(tiny_model, tiny_preprocess, tmp_path, monkeypatch):
    source = tiny_model(5)
    content = checkpoint.pack(source, {}, classes=("a", "b", "c"), preprocess=tiny_preprocess)
    checkpoint.save(tmp_path / "best.pt", content)
    monkeypatch.setattr(runs, "find_set", lambda *_, **__: str(draw_folder(tmp_path / "data", train=4, val=1)))
    options = finetune.Options(shared=tmp_path, weights=tmp_path / "best.pt")
    loop = finetune.make_loop(finetune.TASKS["flowers17"], runs.Run("flowers17", "plain", 1, 0), options)
    made, expected = loop.model.state_dict(), source.state_dict()
    shared = [name for name in expected if made[name].shape == expected[name].shape and "output" not in name]
    assert len(shared) >= len(expected) - 2
    assert all(torch.equal(made[name], expected[name]) for name in shared)
