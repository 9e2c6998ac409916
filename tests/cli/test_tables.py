import re

import pytest

from rexnet.cli.tables import new_table, show

PATH = "runs/a-very-long-folder-name-of-a-user/flowers-of-the-garden-behind-the-house.onnx"
CLASS = "Bellis perennis with a long common name, its subspecies, its author and the year 1753"


@pytest.mark.parametrize("name", [PATH, CLASS])
@pytest.mark.parametrize("columns", [20, 80, 120])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_name_or_number_is_cut_or_lost(name, columns, terminal, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    table = new_table("network", "engine", "ms", "quartiles", "p95", "images/s", "MiB")
    cells = [name, "onnxruntime fp32", "12.34", "12.11-13.52", "15.12", "81.13", "230"]
    table.add_row(*cells)
    show(table)
    words = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).split()
    assert {word for cell in cells for word in cell.split()} <= set(words)
