"""Format nouns, durations, paths, errors and tables as text."""

import csv
import io
import os
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path


def plural(number: float, noun: str) -> str:
    """Return the noun, in the plural unless `number` is 1: "images", "classes"."""
    ending = "es" if noun.endswith("s") else "s"
    return noun if number == 1 else noun + ending


def quantity(number: int, noun: str) -> str:
    """Return the number with its noun: "1 image", "12,000 images"."""
    return f"{number:,} {plural(number, noun)}"


def duration_text(seconds: float) -> str:
    """Return "40 s", "12 min", "5 h 10 min" or "3 days 4 h"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"


def time_left_text(seconds: float) -> str:
    """Return the remaining time and, from one minute up, the time of day at which it ends."""
    if seconds < 60:
        return f"{duration_text(seconds)} left"
    end = datetime.now().astimezone() + timedelta(seconds=seconds)
    day = "" if seconds < 12 * 3600 else f"{end:%b} {end.day}, "
    return f"{duration_text(seconds)} left, until {day}{end:%H:%M}"


def reason_of(error: Exception) -> str:
    """Return the text of an error; for an OSError, without the error number and file name, which the surrounding
    message has."""
    if isinstance(error, UnicodeDecodeError):
        found = "it is UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "it is not UTF-8 text"
        return f"{found}; save it as UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def printable(path: str | Path) -> str:
    """Return the path on one line: line breaks and undecodable bytes appear as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(path))


def some_names(names: Iterable[str]) -> str:
    """Return the first five names, quoted if they begin or end with a space, and the number of the others."""
    shown = [printable(name) if name == name.strip() else repr(name) for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def normal_name(name: str) -> str:
    """Return a name in Unicode's normal form NFC, in which names that look alike compare equal: macOS writes an accent
    as a separate character, other systems do not."""
    return unicodedata.normalize("NFC", name)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return the rows as lines of a CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def markdown_text(rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table whose first row is the header."""
    head, *body = ([str(cell) for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
