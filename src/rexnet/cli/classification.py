"""Commands about classifiers."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rexnet.cli.options import fail, read_ahead, read_options
from rexnet.cli.tables import new_table, percent, show, write_any_character


def train(arguments: Sequence[str]) -> None:
    """Train a classifier on a folder of images"""
    from rexnet.processes import is_main_process
    from rexnet.training.config import TrainConfig
    from rexnet.training.recipes import FIRST_LOOK, named, starting_point
    from rexnet.training.timm_flags import translate

    arguments = translate(arguments)
    asked, unknown = read_ahead("train", TrainConfig, arguments, default=FIRST_LOOK)
    try:
        start = starting_point(asked)
    except ValueError:
        if not unknown:
            raise
        start = FIRST_LOOK  # an unknown option's value may stand where DATA should
    config = read_options("train", TrainConfig, arguments, default=start)

    from rexnet.training import classify

    run = classify.train(named(config, start))["run"]
    if is_main_process():
        best = Path(run, "best.pt")
        network = best if best.exists() else best.with_name("last.pt")
        print(f"run folder: {run}")
        print(f"use it:     rexnet predict {shlex.quote(str(network))} IMAGE|FOLDER|PATTERN ...")


def validate(arguments: Sequence[str]) -> None:
    """Measure a trained classifier on labelled images"""
    from rexnet.deploy.config import ValidateConfig
    from rexnet.processes import is_main_process

    config = read_options("validate", ValidateConfig, arguments)

    from rexnet.deploy.validate import validate

    result = validate(config)
    if not is_main_process():
        return
    table = new_table("class", "images", "called so", "correct", "precision %", "recall %", "F1 %")
    for name, row in result["by_class"].items():
        shares = (percent(row[key]) for key in ("precision", "recall", "f1"))
        table.add_row(name, str(row["images"]), str(row["called"]), str(row["correct"]), *shares)
    show(table)
    for what in ("skipped", "missing_classes"):
        if result[what]:
            more = ", ..." if len(result[what]) > 5 else ""
            print(f"{what.replace('_', ' ')}: {len(result[what])} ({', '.join(result[what][:5])}{more})")
    named = {"top-1": "top1", "top-5": "top5", "macro recall": "macro_recall", "macro F1": "macro_f1"}
    figures = "  ".join(f"{name} {percent(result[key])} %" for name, key in named.items())
    print(f"{result['images']:,} images  {figures}")


def predict(arguments: Sequence[str]) -> None:
    """Name the classes of images"""
    from rexnet.deploy.config import PredictConfig
    from rexnet.files import write_whole

    config = read_options("predict", PredictConfig, arguments)

    from rexnet.deploy.predict import predict_files, render

    predictions = predict_files(config)
    text = render(predictions, config.format)
    if config.output is None:
        write_any_character(is_data=config.format != "text")
        print(text, end="")
    else:
        write_whole(config.output, text)
    if all(prediction.error for prediction in predictions):
        fail(f"none of {len(predictions)} files can be read; the first: {predictions[0].error}", code=1)


def report(arguments: Sequence[str]) -> None:
    """Show what happened in training runs, as one HTML page"""
    from rexnet.report.config import ReportConfig

    config = read_options("report", ReportConfig, arguments)

    from rexnet.report.write import write_report

    print(f"report: {write_report(config)}")
