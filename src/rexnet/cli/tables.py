"""Tables and numbers as commands print them."""

import io
import sys
from typing import Any


def new_table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or "weights" in column else "right", overflow="fold")
    return table


def show(table: Any) -> None:
    from rich.console import Console

    Console().print(table)


def spread(values: dict[str, float]) -> str:
    return f"{values['smallest']:g} to {values['largest']:g}, median {values['median']:g}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def write_any_character(is_data: bool = False) -> None:
    """Let a console that lacks a character print a question mark; data on standard output are UTF-8 as in files."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if is_data and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
