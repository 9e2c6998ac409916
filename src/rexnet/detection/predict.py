"""Detection in image files for the command line: plots, and COCO result rows."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rexnet.data.image_files import find_images
from rexnet.detection.coco_rows import to_coco_rows
from rexnet.detection.config import DetectPredictConfig
from rexnet.detection.plot import check_font
from rexnet.detection.runtime import Detections, ObjectPredictor
from rexnet.files import write_whole

logger = logging.getLogger(__name__)

RESULTS = "detections.json"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Objects detected in one file."""

    image: str
    counts: dict[str, int]
    """Number of objects by class, at or above the minimum score."""
    error: str | None = None


def predict_files(config: DetectPredictConfig) -> list[Found]:
    """Write a plot of every image to the folder, then RESULTS, and return one `Found` per file, in order.

    A result row has `file_name`, and as its image_id the number in the file's name, as in COCO, or, if the names are
    not distinct numbers, the file's position in the list. Raise BadImageError for a bad file or, with bad_image "skip",
    return its error; raise ValueError if all are bad.
    """
    folder = Path(config.out)
    config.check()
    if config.font is not None:
        check_font(config.font)
    files = find_images(config.images)
    # Path.resolve() raises RuntimeError for a link to itself; here, that is a bad image like any other.
    if os.path.realpath(folder) in {os.path.dirname(os.path.realpath(file)) for file in files}:
        raise ValueError(f"--out {config.out!r} is a folder that images are read from; give another")
    predictor = ObjectPredictor(config.checkpoint, threads=config.threads, device=config.device)
    logger.info("engine: %s", predictor.engine)
    folder.mkdir(parents=True, exist_ok=True)
    image_ids, drawn = _image_ids(files), _drawn_names(files)
    found: list[Found] = []
    rows: list[dict[str, Any]] = []
    for detections in predictor.stream(files, batch_size=config.batch_size, bad_image=config.bad_image):
        place = len(found)
        if detections.source_image is None:
            found.append(Found(image=detections.image, counts={}, error=detections.error))
            continue
        detections.plot(min_score=config.min_score, font=config.font).save(folder / drawn[place], quality=92)
        found.append(Found(image=detections.image, counts=_counts(detections, config.min_score)))
        new = to_coco_rows([detections.output], image_ids=[image_ids[place]], category_ids=predictor.category_ids)
        rows += [{**row, "file_name": detections.image} for row in new]
    write_whole(folder / RESULTS, json.dumps(rows) + "\n")
    bad = sum(item.error is not None for item in found)
    if bad == len(found):
        raise ValueError(f"none of {bad} files can be read; the first: {found[0].error}")
    return found


def _counts(detections: Detections, min_score: float) -> dict[str, int]:
    sure = (detections.output["scores"] >= min_score).tolist()
    names = [name for name, counts in zip(detections.names, sure, strict=True) if counts]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _image_ids(files: list[Path]) -> list[int]:
    stems = [file.stem for file in files]
    numbers = [int(stem) for stem in stems if stem.isdecimal() and stem.isascii()]
    return numbers if len(set(numbers)) == len(files) else list(range(1, len(files) + 1))


def _drawn_names(files: list[Path]) -> list[str]:
    """Return NAME.jpg for each file, with a number if several files have the same name."""
    names: dict[str, None] = {}
    for file in files:
        number, name = 1, f"{file.stem}.jpg"
        while name in names:
            number += 1
            name = f"{file.stem}-{number}.jpg"
        names[name] = None
    return list(names)
