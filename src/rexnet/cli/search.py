"""`rexnet search`: commands about the search for channels."""

import logging
import shlex
from collections.abc import Sequence

from rexnet.cli.options import read_ahead, read_options
from rexnet.cli.tables import new_table, show


def run(arguments: Sequence[str]) -> None:
    """Search the channels of every block under limits on cost"""
    from rexnet.search.config import EngineOptions, SearchConfig
    from rexnet.search.recipes import FIRST_LOOK, starting_point

    given, _ = read_ahead("search run", SearchConfig, arguments, default=FIRST_LOOK)
    config = read_options("search run", SearchConfig, arguments, default=starting_point(given))

    from rexnet.search.run import search
    from rexnet.search.storage import hide_password
    from rexnet.search.tables import best_table

    logging.getLogger("rexnet.training").setLevel(logging.WARNING)  # a search logs a line for each training
    found = search(config)
    head, *rows = best_table(found, config.engine.objectives)
    table = new_table(*head)
    for row in rows:
        table.add_row(*row)
    show(table)
    engine = config.engine
    command = ["rexnet", "search", "report", engine.output]
    command += ["--storage", hide_password(engine.storage)] if engine.storage else []
    command += ["--study", engine.study] if engine.study != EngineOptions.study else []
    print(f"{len(found)} trials; tables and figures: {shlex.join(command)}")


def report(arguments: Sequence[str]) -> None:
    """Report what searches found, in tables, figures and Optuna's plots"""
    from rexnet.search.config import SearchReportConfig

    config = read_options("search report", SearchReportConfig, arguments)

    from rexnet.search.report import report

    folder = report(config)
    print((folder / "report.md").read_text(encoding="utf-8"), end="")
    print(f"tables, figures and Optuna's plots: {folder}")


def export(arguments: Sequence[str]) -> None:
    """Write a network that a search found to a file"""
    from rexnet.search.config import ExportConfig

    config = read_options("search export", ExportConfig, arguments)

    from rexnet.search.export import export

    network = export(config)
    print(f"{network.name}: {config.output}")
    print(f"use it: {shlex.join(['rexnet', 'train', 'DATA', '--model', config.output])}")
