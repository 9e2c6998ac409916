"""Options and last lines of `rexnet train` and `rexnet detect train`."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rexnet.cli.options import Given, build, read_options
from rexnet.processes import is_main_process

if TYPE_CHECKING:
    from rexnet.detection.config import DetectTrainConfig
    from rexnet.training.config import TrainConfig
    from rexnet.training.time_budget import TimeLimit

Config = TypeVar("Config", "TrainConfig", "DetectTrainConfig")


def read_training(
    command: str,
    kind: type[Config],
    arguments: Sequence[str],
    *,
    began: float,
    ask: Callable[[Given], Config],
    start: Callable[[Config, Given], Config],
    show_help: Callable[[Given], None],
) -> tuple[Config, "TimeLimit[Config]"]:
    """Return the settings and the limit of --max-minutes, counted from `began`. `ask` returns the settings with those
    given options that determine the defaults of the others; `start`, from these, the settings to override.
    """
    from rexnet.training.recipes import check_length, rate_as_typed

    typed: Given = {}

    def base(given: Given) -> Config:
        asked = ask(given)
        given |= rate_as_typed(given, asked)
        typed.update(given)
        return start(asked, given)

    def checked_base(given: Given) -> Config:
        check_length(given)
        return base(given)

    config = read_options(command, kind, arguments, start=checked_base, show_help=show_help)

    from rexnet.training.time_budget import TimeLimit

    typed["weights"] = config.network.weights  # choose them only once
    return config, TimeLimit.of_command(began, typed, lambda given: build(kind, given, base(given)))


def print_run(summary: dict[str, Any], command: str, rest: str = "") -> None:
    """Print the run folder, and the command that uses its network."""
    if is_main_process():
        best = Path(summary["run"], "best.pt")
        network = shlex.quote(str(best if best.exists() else best.with_name("last.pt")))
        print(f"run folder: {summary['run']}")
        print(f"use it:     rexnet {command} {network} IMAGE|FOLDER|PATTERN ...{rest}")
