"""CSV tables that say in their first line how they were made, so that a study can be stopped, resumed and extended."""

import csv
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rexnet.files import check_output_folder, write_whole
from rexnet.text import csv_text, printable

logger = logging.getLogger(__name__)


def make_folder(output: str) -> Path:
    """Make the folder of a study where it is missing; ValueError where a file is in its place."""
    check_output_folder(output, allowed="a folder, new or of an earlier study")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_table(
    path: str | os.PathLike[str],
    *,
    kind: str,
    settings: Mapping[str, Any],
    columns: Sequence[str],
    rows_a_task: int = 1,
) -> int:
    """Makes the table or cuts it back to its last whole task; returns the number of tasks in it.

    `kind` is the command that writes such tables, `settings` its options that decide the rows. ValueError for a file
    of another kind or of other settings.
    """
    path = Path(path)
    header = f"# {kind} {json.dumps(settings)}\n{','.join(columns)}\n"
    if not path.exists() or not path.stat().st_size:
        write_whole(path, header)
        return 0
    content = path.read_bytes()
    wanted = header.encode("utf-8")
    if not content.startswith(wanted):
        difference = _difference(content, kind, settings)
        raise ValueError(f"{printable(path)} {difference}; name another folder or move this file away")
    lines = content[len(wanted) :].split(b"\n")[:-1]
    whole = len(lines) // rows_a_task
    end = len(wanted) + sum(len(line) + 1 for line in lines[: whole * rows_a_task])
    if end < len(content):
        logger.info("%s ends in the middle of a task, which is made anew", printable(path))
        os.truncate(path, end)
    return whole


def _difference(content: bytes, kind: str, settings: Mapping[str, Any]) -> str:
    first = content.split(b"\n", 1)[0].decode("utf-8", "replace")
    try:
        have, asked = json.loads(first.removeprefix(f"# {kind} ")), json.loads(json.dumps(settings))
        name = next(name for name in asked if have.get(name) != asked[name])
    except (ValueError, StopIteration, AttributeError):
        return f"is not a table of {kind}"
    return f"was made with --{name.replace('_', '-')} {have.get(name)}, not {asked[name]}"


def append_rows(path: str | os.PathLike[str], rows: Iterable[Iterable[object]]) -> None:
    """All of them in one write, after which a kill cannot lose them."""
    with Path(path).open("a", encoding="utf-8", newline="") as file:
        file.write(csv_text(rows))


def read_table(path: str | os.PathLike[str], *, kind: str) -> tuple[list[str], list[list[str]]]:
    """Columns and whole rows; a torn last line is left out. ValueError for a file of another kind."""
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    if len(lines) < 2 or not lines[0].startswith(f"# {kind} "):
        raise ValueError(f"{printable(path)} is not a table of {kind}; allowed: what that command wrote")
    columns, *rows = csv.reader(lines[1:])
    return columns, rows
