import json
from pathlib import Path

import pytest
import record_study

from rexnet.study.config import CHUNK
from rexnet.study.protocol import Protocol
from rexnet.study.published import PUBLISHED
from rexnet.study.rank_table import COLUMNS, KIND


def write_study(folder, chunks):
    """A table in which the mean of each cell is the published value."""
    settings = {**Protocol().as_dict(), "blocks": list(PUBLISHED)}
    rows = [
        [block, name, ratio, number * CHUNK, CHUNK, value * CHUNK, value * value * CHUNK]
        for number in range(chunks)
        for block, curves in PUBLISHED.items()
        for name, curve in curves.items()
        for ratio, value in curve.items()
    ]
    lines = [f"# {KIND} {json.dumps(settings)}", ",".join(COLUMNS), *(",".join(map(str, row)) for row in rows), ""]
    (folder / "ranks.csv").write_text("\n".join(lines))
    return rows


def test_a_study_that_reproduces_the_published_values_has_no_residual(tmp_path):
    rows = write_study(tmp_path, chunks=3)
    (row,) = record_study.rank(tmp_path)
    assert row["networks"] == 3 * CHUNK and row["ranks"] == len(rows) * CHUNK
    assert list(row["panels"]) == list(PUBLISHED) == row["protocol"]["blocks"]
    for panel in row["panels"].values():
        assert panel["mean_absolute_error"] == panel["largest_error"] == 0 and panel["misordered"] == []


@pytest.mark.parametrize(
    ("what", "spent", "sentence"),
    [
        ("rank", {"processes": 2, "minutes": 5.0}, "--peak-memory-gb is None; allowed: a number with rank"),
        ("depth", {"minutes": 5.0}, "--minutes is 5.0; allowed: .*nothing with depth"),
    ],
)
def test_time_and_memory_belong_to_the_rank_study(what, spent, sentence):
    with pytest.raises(ValueError, match=sentence):
        record_study.Options(what=what, study=Path("study"), command="", **spent)
