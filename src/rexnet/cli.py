"""The command line: a word, its options, the function that does the work. The only module that prints."""

import io
import logging
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rexnet._version import __version__


def train(arguments: Sequence[str]) -> None:
    """Train a classifier on a folder of images"""
    from rexnet.training import classify
    from rexnet.training.config import TrainConfig
    from rexnet.training.distributed import is_main_process
    from rexnet.training.recipes import FIRST_LOOK, named, starting_point
    from rexnet.training.timm_flags import translate

    arguments = translate(arguments)
    # Help and suggestions show what the recipe would use; so it is looked for before the options are judged.
    known = [word for word in arguments if word not in ("-h", "--help")]
    asked, unknown = _read_options("train", TrainConfig, known, default=FIRST_LOOK, return_unknown_args=True)
    try:
        start = starting_point(asked)
    except ValueError:
        if not unknown:
            raise
        start = FIRST_LOOK  # an unknown option's value may stand where DATA should
    config = _read_options("train", TrainConfig, arguments, default=start)
    run = classify.train(named(config, start))["run"]
    if is_main_process():
        best = Path(run, "best.pt")
        network = best if best.exists() else best.with_name("last.pt")
        print(f"run folder: {run}")
        print(f"use it:     rexnet predict {network} IMAGE|FOLDER|PATTERN ...")


def validate(arguments: Sequence[str]) -> None:
    """Measure a trained classifier on labelled images"""
    from rexnet.training.distributed import is_main_process
    from rexnet.training.validate import ValidateConfig, validate

    result = validate(_read_options("validate", ValidateConfig, arguments))
    if not is_main_process():
        return
    table = _table("class", "images", "called so", "correct", "precision %", "recall %", "F1 %")
    for name, row in result["by_class"].items():
        shares = (_percent(row[key]) for key in ("precision", "recall", "f1"))
        table.add_row(name, str(row["images"]), str(row["called"]), str(row["correct"]), *shares)
    _show(table)
    for what in ("skipped", "missing_classes"):
        if result[what]:
            more = ", ..." if len(result[what]) > 5 else ""
            print(f"{what.replace('_', ' ')}: {len(result[what])} ({', '.join(result[what][:5])}{more})")
    named = {"top-1": "top1", "top-5": "top5", "macro recall": "macro_recall", "macro F1": "macro_f1"}
    figures = "  ".join(f"{name} {_percent(result[key])} %" for name, key in named.items())
    print(f"{result['images']:,} images  {figures}")


def predict(arguments: Sequence[str]) -> None:
    """Name the classes of images"""
    from rexnet.data.output_files import write_whole
    from rexnet.deploy.predict import PredictConfig, predict_files, render

    config = _read_options("predict", PredictConfig, arguments)
    predictions = predict_files(config)
    text = render(predictions, config.format)
    if config.output is None:
        print(text, end="")
    else:
        write_whole(config.output, text)
    if all(prediction.error for prediction in predictions):
        _fail(f"none of {len(predictions)} files can be read; the first: {predictions[0].error}", code=1)


def report(arguments: Sequence[str]) -> None:
    """Show what happened in training runs, as one HTML page"""
    from rexnet.report.write import ReportConfig, write_report

    print(f"report: {write_report(_read_options('report', ReportConfig, arguments))}")


def data_check(arguments: Sequence[str]) -> None:
    """Find unreadable, tiny, duplicate and misplaced images"""
    from rexnet.data.check import CheckConfig, check
    from rexnet.data.output_files import write_whole

    config = _read_options("data check", CheckConfig, arguments)
    report = check(config)
    if config.output is not None:
        write_whole(config.output, report.to_json())
    table = _table("split", "images", "classes", "smallest", "largest", "ratio")
    for split, by_class in report.classes.items():
        ends = [f"{report.balance[split].get(key, 0):,}" for key in ("smallest", "largest", "ratio")]
        table.add_row(split or "(none)", f"{sum(by_class.values()):,}", f"{len(by_class):,}", *ends)
    _show(table)
    table = _table("problem", "found")
    for problem, found in report.problems().items():
        table.add_row(problem, f"{len(found):,}")
    _show(table)
    for problem, found in report.problems().items():
        more = [f"and {len(found) - 5:,} more; --output FILE lists all"] if len(found) > 5 else []
        print("".join([f"{problem}:\n" if found else "", *(f"  {line}\n" for line in [*found[:5], *more])]), end="")
    sizes = report.size_px.get("shorter_side", {})
    print(f"{report.images:,} images" + (f", shorter side {_range(sizes)} px" if sizes else ""))
    if not report.clean:
        sys.exit(1)


def data_shard(arguments: Sequence[str]) -> None:
    """Pack images into tars (WebDataset format)"""
    from rexnet.data.shard_writing import ShardConfig, write_shards

    config = _read_options("data shard", ShardConfig, arguments)
    written = write_shards(config)
    for side, images in written.images.items():
        print(f"{side}: {images:,} images in {written.shards[side]:,} tars")
    if written.skipped:
        more = ", ..." if len(written.skipped) > 5 else ""
        print(f"skipped: {len(written.skipped)} ({', '.join(written.skipped[:5])}{more})")
    print(f"use it: rexnet train {config.output}")


def models(arguments: Sequence[str]) -> None:
    """List the networks, their size and their published weights"""
    import torch

    from rexnet.models.cost import measure_cost
    from rexnet.models.published import published_for
    from rexnet.models.variants import create_model, list_models

    if arguments:
        _show_help_or_fail("models", arguments, "lists all networks; it takes no options")
        return
    table = _table("network", "parameters M", "MACs G at 224 px", "published weights (their publisher's top-1 %)")
    for name in list_models():
        with torch.device("meta"):
            cost = measure_cost(create_model(name))
        rows = [f"{row.name} {_percent(row.top1_percent)}" for row in published_for(name)]
        table.add_row(name, f"{cost.parameters / 1e6:.2f}", f"{cost.macs / 1e9:.3f}", "\n".join(rows))
    _show(table)
    print("any other width: rexnet_117 is width 1.17, also with rexnetr_ and rexnet_lite_")


COMMANDS = {
    "train": train,
    "validate": validate,
    "predict": predict,
    "report": report,
    "data check": data_check,
    "data shard": data_shard,
    "models": models,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command. Exit code 2 for a mistyped command or option and for an option's value that cannot be, 1 for
    all else that a user can mend; both with one sentence."""
    word, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if rest and f"{word} {rest[0]}" in COMMANDS:
        word, *rest = f"{word} {rest[0]}", *rest[1:]
    if word in ("--help", "-h", "help"):
        lines = [f"  rexnet {name:<11} {function.__doc__}" for name, function in COMMANDS.items()]
        more = "rexnet COMMAND --help lists the options of a command."
        print("\n".join(["usage: rexnet COMMAND ...", "", *lines, "", more]))
    elif word == "--version":
        print(__version__)
    elif word in COMMANDS:
        _run(word, rest)
    else:
        close = [name for name in COMMANDS if name.startswith(f"{word} ")] or get_close_matches(word, COMMANDS, n=1)
        hint = f"did you mean {' or '.join(close)}?" if close else f"allowed: {', '.join(COMMANDS)}"
        _fail(f"there is no command {word!r}; {hint}", code=2)


def _run(word: str, arguments: Sequence[str]) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        from rexnet.data.option_checks import OptionError
        from rexnet.training.distributed import is_main_process

        # Of several processes one tells what happens; what goes wrong, each does.
        logging.getLogger("rexnet").setLevel(logging.INFO if is_main_process() else logging.WARNING)
        COMMANDS[word](arguments)
    except KeyboardInterrupt as stop:
        _fail(str(stop) or "stopped", code=getattr(stop, "exit_code", 130))
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough; Python would complain once more at its exit.
        sys.stderr.close()
        sys.exit(141)
    except (ValueError, OSError) as error:
        bad_image = type(error).__name__ == "BadImageError"
        remedy = "; --bad-image skip leaves such files out, rexnet data check finds them all" if bad_image else ""
        _fail(" ".join(str(error).split()) + remedy, code=2 if isinstance(error, OptionError) else 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail("the device's memory is full; a smaller --batch-size or --image-size needs less", code=1)


def _fail(sentence: str, *, code: int) -> None:
    print(f"rexnet: {sentence}", file=sys.stderr)
    sys.exit(code)


def _read_options(command: str, kind: type, arguments: Sequence[str], **more: Any) -> Any:
    """`kind` from the words of a command. A value out of range ends the program with its sentence, like any mistake."""
    import tyro

    marks = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, prog=f"rexnet {command}", args=arguments, config=marks, **more)
    except SystemExit as stop:
        if sentence := _refusal(stop):
            _fail(sentence, code=2)
        sys.stderr.write(said.getvalue())
        raise


def _refusal(error: BaseException | None) -> str | None:
    """The sentence of the ValueError of ours that tyro turned into its own message, if there was one."""
    while error is not None:
        if isinstance(error, ValueError) and error.__traceback__ is not None:
            *_, (frame, _) = traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__", "").startswith("rexnet."):
                return str(error)
        error = error.__context__
    return None


def _show_help_or_fail(command: str, arguments: Sequence[str], sentence: str) -> None:
    if arguments[0] not in ("-h", "--help"):
        _fail(f"unrecognized options {' '.join(arguments)}; rexnet {command} {sentence}", code=2)
    print(f"usage: rexnet {command}\n\nrexnet {command} {sentence}.")


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or "weights" in column else "right", overflow="fold")
    return table


def _show(table: Any) -> None:
    from rich.console import Console

    Console().print(table)


def _range(spread: dict[str, float]) -> str:
    return f"{spread['smallest']:g} to {spread['largest']:g}, median {spread['median']:g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
