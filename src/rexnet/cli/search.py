"""`rexnet search`: commands of the search for channel counts."""

import logging
import shlex
from collections.abc import Sequence

from rexnet.cli.options import Given, build, read_options
from rexnet.cli.tables import new_table, show
from rexnet.text import quantity

_EXAMPLES = ("rexnet search run torchvision/cifar10 --constraint a --processes 2", "rexnet search report search")


def run(arguments: Sequence[str]) -> None:
    """Search the channels of every block under limits on cost"""
    from rexnet.cli.help import print_help
    from rexnet.search.config import EngineOptions, SearchConfig
    from rexnet.search.recipes import DECIDING, starting_point

    def start(given: Given) -> SearchConfig:
        return starting_point(build(SearchConfig, {name: given[name] for name in DECIDING if name in given}))

    def show_help(given: Given) -> None:
        print_help("search run", SearchConfig, base=start(given), examples=_EXAMPLES)

    config = read_options("search run", SearchConfig, arguments, start=start, show_help=show_help)

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
    print(f"{quantity(len(found), 'trial')}; tables and figures: {shlex.join(command)}")


def report(arguments: Sequence[str]) -> None:
    """Report the results of searches in tables, figures and Optuna's plots"""
    from rexnet.search.config import SearchReportConfig

    config = read_options("search report", SearchReportConfig, arguments)

    from rexnet.search.report import report

    folder = report(config)
    print((folder / "report.md").read_text(encoding="utf-8"), end="")
    print(f"tables, figures and Optuna's plots: {folder}")


def export(arguments: Sequence[str]) -> None:
    """Write a network found by a search to a file"""
    from rexnet.search.config import ExportConfig

    config = read_options("search export", ExportConfig, arguments)

    from rexnet.search.results import export

    network = export(config)
    print(f"{network.name}: {config.output}")
    print(f"use it: {shlex.join(['rexnet', 'train', 'DATA', '--model', config.output])}")
