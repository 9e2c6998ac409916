"""CSV tables whose first line holds the settings, so that a study can be stopped, resumed and extended."""

import csv
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rexnet.files import check_output_folder, read_text, write_whole
from rexnet.text import csv_text, printable

logger = logging.getLogger(__name__)


def check_folder(output: str) -> None:
    """Raise ValueError if a file is in place of the folder of a study."""
    check_output_folder(output, allowed="a new folder or that of an earlier study")


def make_folder(output: str) -> Path:
    """Create the folder of a study if it is missing. Raise ValueError if a file is in its place."""
    check_folder(output)
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
    """Create the table, or truncate it to its last complete task; return the number of its tasks.

    `kind` is the command that writes such tables, and `settings` are the options that determine the rows. Raise
    ValueError for a file of another kind or with other settings.
    """
    path = Path(path)
    header = f"# {kind} {json.dumps(settings)}\n{','.join(columns)}\n".encode()
    if (saved := read_settings(path, kind=kind)) is None:
        write_whole(path, header)
        return 0
    for name, asked in json.loads(json.dumps(settings)).items():
        if saved.get(name) != asked:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{printable(path)} was written with {option} {saved.get(name)}, not {asked}; name another folder or "
                "move this file away"
            )
    content = path.read_bytes()
    if not content.startswith(header):
        raise ValueError(
            f"{printable(path)} was written by another version of {kind}; name another folder or move this file away"
        )
    lines = content[len(header) :].split(b"\n")[:-1]
    whole = len(lines) // rows_a_task
    end = len(header) + sum(len(line) + 1 for line in lines[: whole * rows_a_task])
    if end < len(content):
        logger.info("%s ends in the middle of a task, which is repeated", printable(path))
        os.truncate(path, end)
    return whole


def read_settings(path: str | os.PathLike[str], *, kind: str) -> dict[str, Any] | None:
    """Read the settings in a table's first line; None if there is none yet. Raise ValueError for another kind of
    file."""
    path = Path(path)
    if not path.exists() or not path.stat().st_size:
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    try:
        return dict(json.loads(first.removeprefix(f"# {kind} ")))
    except (ValueError, TypeError):
        raise ValueError(
            f"{printable(path)} is not a table of {kind}; name another folder or move this file away"
        ) from None


def append_rows(path: str | os.PathLike[str], rows: Iterable[Iterable[object]]) -> None:
    """Append all rows in one write, so that a kill cannot leave only some of them."""
    with Path(path).open("a", encoding="utf-8", newline="") as file:
        file.write(csv_text(rows))


def read_table(path: str | os.PathLike[str], *, kind: str) -> tuple[list[str], list[list[str]]]:
    """Read columns and whole rows, skipping a torn last line. Raise ValueError for a file of another kind."""
    path = Path(path)
    text = read_text(path)
    lines = text[: text.rfind("\n") + 1].splitlines()
    if read_settings(path, kind=kind) is None or len(lines) < 2:
        raise ValueError(f"{printable(path)} is not a table of {kind}; give a file that this command wrote")
    columns, *rows = csv.reader(lines[1:])
    return columns, rows
