"""Tables and numbers as commands print them."""

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
