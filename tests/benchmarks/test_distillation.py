import sys

import pytest

import distillation
import records
import runs
from tests.drawings import draw_folder


@pytest.mark.slow
def test_contenders_are_recorded_with_the_frozen_teacher(tmp_path, monkeypatch, capsys):
    data = draw_folder(tmp_path / "data", train=8, val=2)
    monkeypatch.setattr(runs, "find_set", lambda *_, **__: str(data))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    options = ["--work", str(tmp_path), "--sets", "flowers17-5", "flowers17", "--epochs", "1", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["distillation.py", str(tmp_path), *options])
    distillation.main()
    rows = records.read(distillation.NAME)
    assert [(row["set"], row["contender"]) for row in rows] == [
        *(("flowers17-5", "none"), ("flowers17-5", "teacher"), ("flowers17-5", "unlabelled")),
        *(("flowers17", "none"), ("flowers17", "teacher")),
    ]
    for row in rows:
        assert 0 <= row["top1_percent"] <= 100 and row["latency_ms"] > 0
        assert ("teacher_top1_percent" in row) == (row["contender"] != "none")
    assert rows[1]["teacher_latency_ms"] > rows[1]["latency_ms"]
    assert "5 runs, " in capsys.readouterr().out
    distillation.main()
    assert records.read(distillation.NAME) == rows
