import sys

import pytest

import detector_recipes
import records
import runs
from rexnet.data.boxes.shapes import draw_shapes


@pytest.mark.slow
def test_both_contenders_train_and_are_recorded_once(tmp_path, monkeypatch):
    draw_shapes(tmp_path / "data", images=16, seed=0, size_px=64)
    monkeypatch.setattr(runs, "find_set", lambda *_, **__: str(tmp_path / "data"))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    arguments = ("--sets", "shapes", "--epochs", "1", "--seeds", "0")
    monkeypatch.setattr(sys, "argv", ["detector_recipes.py", str(tmp_path), *arguments])
    detector_recipes.main()
    rows = records.read(detector_recipes.NAME)
    assert [row["contender"] for row in rows] == ["rexnet", "plain"]
    for row in rows:
        assert 0 <= row["box_ap"] <= row["box_ap50"] <= 100
        assert (row["detector"], row["size_px"], row["batch_size"]) == ("ssdlite", 192, 8)
    detector_recipes.main()
    assert records.read(detector_recipes.NAME) == rows
