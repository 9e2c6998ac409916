"""Command-line prediction: input files and output formats."""

import json
import logging
import shlex

from rexnet.data.image_files import find_images
from rexnet.deploy.config import PredictConfig
from rexnet.deploy.predictor import Prediction, Predictor
from rexnet.errors import WeightsError
from rexnet.files import check_output_file
from rexnet.text import csv_text, plural, printable

logger = logging.getLogger(__name__)

_WORTH_MEASURING = 16
"""Minimum number of images for which measuring the engines pays off."""


def predict_files(config: PredictConfig) -> list[Prediction]:
    """Return predictions in the order of the files. Raise BadImageError for a bad file or, with bad_image "skip",
    return its error."""
    check_output_file(config.output)
    files = find_images(config.images)
    predictor = Predictor(
        config.checkpoint,
        network=config.model,
        backend=config.backend,
        precision=config.precision,
        threads=config.threads,
        device=config.device,
        measure=len(files) >= _WORTH_MEASURING,
    )
    if predictor.task == "detection":
        command = f"rexnet detect predict {shlex.quote(config.checkpoint)} IMAGE ... --out FOLDER"
        raise WeightsError(f"{config.checkpoint!r} holds a detector; `{command}` detects and plots objects")
    predictions = list(predictor.stream(files, top_k=config.top_k, bad_image=config.bad_image))
    bad = sum(prediction.error is not None for prediction in predictions)
    good = len(predictions) - bad
    logger.info("%d %s predicted, %d skipped", good, plural(good, "image"), bad)
    return predictions


def render(predictions: list[Prediction], format: str) -> str:
    """Return the predictions as text in a `format`: csv (one row per image), json (a list) or text (one line per
    image)."""
    if format == "json":
        return json.dumps([_as_dict(prediction) for prediction in predictions], indent=2, ensure_ascii=False) + "\n"
    if format == "csv":
        return _as_csv(predictions)
    return "".join(_as_line(prediction) + "\n" for prediction in predictions)


def _encodable(name: str) -> str:
    """Escape bytes of a file or class name that are not valid text and cannot be written to CSV and JSON files."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _as_dict(prediction: Prediction) -> dict:
    named = [
        {"class": _encodable(scored.name), "probability": round(scored.probability, 6)} for scored in prediction.classes
    ]
    error = {"error": prediction.error} if prediction.error else {}
    return {"image": _encodable(prediction.image), "predictions": named, **error}


def _as_csv(predictions: list[Prediction]) -> str:
    ranks = max((len(prediction.classes) for prediction in predictions), default=0)
    pairs = [f"{word}_{rank}" for rank in range(1, ranks + 1) for word in ("class", "probability")]
    rows = [["image", *pairs, "error"]]
    for prediction in predictions:
        cells = [
            cell for scored in prediction.classes for cell in (_encodable(scored.name), f"{scored.probability:.6f}")
        ]
        padding = [""] * (2 * ranks - len(cells))
        rows.append([_encodable(prediction.image), *cells, *padding, prediction.error or ""])
    return csv_text(rows)


def _as_line(prediction: Prediction) -> str:
    if prediction.error:
        return f"skipped: {prediction.error}"
    named = "  ".join(f"{scored.name} {scored.probability:.1%}" for scored in prediction.classes)
    return f"{printable(prediction.image)}: {named}"
