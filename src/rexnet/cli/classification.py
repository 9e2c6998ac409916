"""Commands for classifiers."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rexnet.cli.options import Given, build, fail, read_options
from rexnet.cli.tables import first_of, new_table, percent, show, write_any_character
from rexnet.cli.training import print_run, read_training
from rexnet.text import quantity

if TYPE_CHECKING:
    from rexnet.training.config import TrainConfig

_EXAMPLES = (
    "rexnet train PATH/TO/FOLDER",
    "rexnet train digits",
    "rexnet train --resume runs/RUN",
)
_FIRST = (
    "weights",
    "model",
    "recipe",
    "epochs",
    "max_minutes",
    "batch_size",
    "lr",
    "image_size",
    "output",
    "resume",
)
_TIMM_MODELS = {"rexnetv1": "rexnet", "rexnetv1_lite": "rexnet_lite"}
"""Model names of the published training script, whose default width is 1.0."""


def train(arguments: Sequence[str]) -> None:
    """Train a classifier on a folder of images"""
    began = time.monotonic()
    from rexnet.cli.help import print_help
    from rexnet.training.config import TrainConfig
    from rexnet.training.preview import preview
    from rexnet.training.recipes import starting_point

    def sizes(given: Given) -> Given:
        return {name: given[name] for name in ("epochs", "batch_size") if name in given}

    def start(asked: TrainConfig, given: Given) -> TrainConfig:
        return starting_point(asked, **sizes(given))

    def show_help(given: Given) -> None:
        try:
            base, decided = preview(_deciding_options(given), data_given="data" in given, **sizes(given))
        except ValueError:  # DATA does not exist
            base, decided = preview(_deciding_options({}), data_given=False)
        print_help("train", TrainConfig, base=base, decided=decided, examples=_EXAMPLES, first=_FIRST)

    config, limit = read_training(
        "train", TrainConfig, arguments, began=began, ask=_deciding_options, start=start, show_help=show_help
    )

    from rexnet.engines.native.network import open_features
    from rexnet.training import classify

    teachers = ()
    if config.teacher.teacher:
        from rexnet.deploy.teachers import open_teachers

        teachers = open_teachers(config.teacher, threads=config.run.threads)
    print_run(classify.train(config, teachers, limit=limit, native=open_features), "predict")


def _deciding_options(given: Given) -> "TrainConfig":
    """Return the settings with those of the `given` options that determine the defaults of the others. In `given`,
    replace timm's model names by this package's and remove auto."""
    from rexnet.training.config import TrainConfig
    from rexnet.training.recipes import DECIDING

    if given.get("model") in _TIMM_MODELS:
        given["model"] = _TIMM_MODELS[given["model"]]
        given.setdefault("width", 1.0)
    for name in ("recipe", "weights"):
        if given.get(name) == "auto":
            del given[name]
    return build(TrainConfig, {"weights": "auto"} | {name: given[name] for name in DECIDING if name in given})


def validate(arguments: Sequence[str]) -> None:
    """Measure a trained classifier on labelled images"""
    from rexnet.deploy.config import ValidateConfig
    from rexnet.processes import is_main_process

    config = read_options("validate", ValidateConfig, arguments)

    from rexnet.deploy.validate import validate
    from rexnet.training.metrics import metrics_of

    result = validate(config)
    if not is_main_process():
        return
    table = new_table("class", "images", "predicted", "correct", "precision %", "recall %", "F1 %")
    for name, row in result["by_class"].items():
        rates = (percent(row[key]) for key in ("precision", "recall", "f1"))
        table.add_row(name, str(row["images"]), str(row["called"]), str(row["correct"]), *rates)
    show(table)
    for what in ("skipped", "missing_classes"):
        if result[what]:
            print(f"{what.replace('_', ' ')}: {first_of(result[what])}")
    shown = [metric for metric in metrics_of("classification", num_classes=len(result["by_class"])) if metric.unit]
    metrics = "  ".join(f"{metric.label} {metric.text(result[metric.name])}" for metric in shown)
    print(f"{quantity(result['images'], 'image')}  {metrics}")


def predict(arguments: Sequence[str]) -> None:
    """Predict the classes of images"""
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
        unread = f"none of {quantity(len(predictions), 'file')} can be read"
        fail(f"{unread}; the first: {predictions[0].error}", code=1)


def report(arguments: Sequence[str]) -> None:
    """Write one HTML page that shows what happened in training runs"""
    from rexnet.report.config import ReportConfig

    config = read_options("report", ReportConfig, arguments)

    from rexnet.report.write import write_report

    print(f"report: {write_report(config)}")
