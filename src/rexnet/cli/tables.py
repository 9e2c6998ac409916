"""Format and print the tables and numbers of commands."""

import io
import sys
from collections.abc import Sequence
from typing import Any


def new_table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for index, column in enumerate(columns):
        left = index == 0 or "weights" in column
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table


def show(table: Any) -> None:
    """Print a table. No word is cut or dropped, and cells are wrapped only in a terminal."""
    from rich.console import Console

    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=1000))
    # Rich would drop columns for which a terminal is too narrow: let the terminal wrap the lines.
    if not console.is_terminal or console.width < needed.minimum:
        console.width = max(console.width, needed.maximum)
    console.print(table)


def spread(values: dict[str, float]) -> str:
    return f"{values['smallest']:g} to {values['largest']:g}, median {values['median']:g}"


def first_of(items: Sequence[object], most: int = 5) -> str:
    """Return the number of items and, in brackets, the first of them."""
    return f"{len(items):,} ({', '.join(map(str, items[:most]))}{', ...' if len(items) > most else ''})"


def print_list(title: str, items: Sequence[object], *, rest: str = "") -> None:
    """Print the title, the first five items on a line each, and the number of further ones; nothing if there are no
    items."""
    if items:
        more = [f"and {len(items) - 5:,} more{rest}"] if len(items) > 5 else []
        print("\n".join([f"{title}:", *(f"  {line}" for line in [*items[:5], *more])]))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def write_any_character(is_data: bool = False) -> None:
    """Print a question mark for a character that the console lacks; with `is_data`, standard output is UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if is_data and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
