"""Commands about the search for channels."""

import logging
from collections.abc import Sequence

from rexnet.cli.options import read_ahead, read_options
from rexnet.cli.tables import new_table, show


def run(arguments: Sequence[str]) -> None:
    """Search the channels of every block under limits on cost"""
    from rexnet.search.config import DIRECTIONS, SearchConfig
    from rexnet.search.recipes import FIRST_LOOK, starting_point
    from rexnet.search.run import search

    asked, _ = read_ahead("search run", SearchConfig, arguments, default=FIRST_LOOK)
    config = read_options("search run", SearchConfig, arguments, default=starting_point(asked))
    logging.getLogger("rexnet.training").setLevel(logging.WARNING)  # a search is many trainings, each told in a line
    found = [row for row in search(config) if not row.pruned]
    table = new_table("channels", *config.engine.objectives, "parameters M", "MACs M")
    falling = DIRECTIONS[config.engine.objectives[0]] == "maximize"
    for row in sorted(found, key=lambda row: row.values[0], reverse=falling)[:10]:
        values = (f"{value:.4g}" for value in row.values)
        table.add_row(row.name, *values, f"{row.parameters / 1e6:.3f}", f"{row.macs / 1e6:.1f}")
    show(table)
    print(f"{len(found)} candidates; tables and figures: rexnet search report {config.engine.output}")


def report(arguments: Sequence[str]) -> None:
    """Show what searches found, in tables, figures and Optuna's plots"""
    from rexnet.search.report import SearchReportConfig, report

    folder = report(read_options("search report", SearchReportConfig, arguments))
    print((folder / "report.md").read_text(encoding="utf-8"), end="")
    print(f"tables, figures and Optuna's plots: {folder}")


def export(arguments: Sequence[str]) -> None:
    """Write a network that a search found to a file"""
    from rexnet.search.export import ExportConfig, export

    config = read_options("search export", ExportConfig, arguments)
    network = export(config)
    print(f"{network.name}: {config.output}")
    print(f"use it: rexnet train DATA --model {config.output}")
