from pathlib import Path

import pytest
import refresh

import records

SCRIPTS = sorted(Path(records.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("script", [script for script in SCRIPTS if "records.provenance(" in script.read_text()])
def test_every_recorder_takes_the_commit_at_its_start(script):
    assert script.name == "records.py" or "records.start()" in script.read_text()


def test_a_checkout_with_changes_is_refused_unless_told(monkeypatch):
    monkeypatch.setattr(records, "commit", lambda: "0123456+changes")
    records.start()
    monkeypatch.delenv("REXNET_CHANGES")
    with pytest.raises(SystemExit, match="REXNET_CHANGES"):
        records.start()
    monkeypatch.setattr(records, "commit", lambda: "0123456")
    records.start()


def test_every_file_of_results_names_the_code_it_speaks_of():
    assert {path.stem for path in records.RESULTS.glob("*.jsonl")} <= set(refresh.SOURCES)
    missing = [folder for folders in refresh.SOURCES.values() for folder in folders]
    assert all((records.RESULTS.parent / folder).is_dir() for folder in missing)


def test_a_row_is_stale_by_its_commit_or_else_by_its_date(monkeypatch):
    asked = []

    def git(*arguments):
        asked.append(arguments)
        return ["0123456"] if arguments[0] == "log" or arguments[1] == "0123456" else []

    monkeypatch.setattr(refresh, "git", git)
    row = {"date": "2026-11-26", "commit": "0123456+changes"}
    assert refresh.changes_since(row, ("src/rexnet/models",)) == 1 and "0123456..HEAD" in asked[-1]
    assert refresh.changes_since({**row, "commit": ""}, ("src/rexnet/models",)) == 1
    assert "--since=2026-11-26T23:59:59" in asked[-1]
