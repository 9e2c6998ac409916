"""Evidence for a report: predictions of a run's network on images that it was not trained on."""

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from rexnet.data.boxes.coco import CocoImages
from rexnet.data.datasets import open_dataset
from rexnet.data.image_set import ImageSet
from rexnet.detection import checkpoints as detectors
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.detection.runtime import ObjectPredictor
from rexnet.errors import BadImageError
from rexnet.models.cost import measure_cost
from rexnet.models.gradcam import grad_cam, map_cells
from rexnet.report.images import Thumbnail, heat_thumbnail, thumbnail
from rexnet.report.predictions import Predictions, predict_set
from rexnet.text import normal_name, printable, quantity
from rexnet.training import checkpoint
from rexnet.training.checkpoint import TrainedRexNet
from rexnet.training.distributed import World
from rexnet.training.run_record import RunRecord
from rexnet.training.session import choose_workers

logger = logging.getLogger(__name__)

MIN_SCORE = 0.5
"""Minimum score of the predicted objects shown."""
_EXPLAINED_MISTAKES = 8
_EXPLAINED_SUCCESSES = 6
_DETECTION_IMAGES = 12
_DETECTION_PX = 296


class Example(NamedTuple):
    """An image and its prediction. `heat` shows where the network sees the predicted class, `heat_target` the true
    one."""

    name: str
    target: str
    predicted: str
    probability: float
    image: Thumbnail
    heat: Thumbnail | None
    heat_target: Thumbnail | None


class DetectionExample(NamedTuple):
    """An image with its predicted objects drawn on it, and their counts."""

    name: str
    image: Thumbnail
    objects: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Predictions of a network on its images. If either is not available, everything is empty except `notes`, which
    state the reason."""

    parameters: int | None = None
    macs: int | None = None
    """Multiply-accumulates for one image; classifiers only."""
    epoch: int | None = None
    """Epoch of best.pt."""
    data: str = ""
    """Name of the images, such as "validation images"."""
    predictions: Predictions | None = None
    mistakes: list[Example] = field(default_factory=list)
    successes: list[Example] = field(default_factory=list)
    heat_cells: int = 0
    """Number of cells per side of a heat map, before it is enlarged."""
    detections: list[DetectionExample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather_evidence(
    record: RunRecord, *, data: str | None, mistakes: int, batch_size: int, device: torch.device
) -> Evidence:
    """Run best.pt on `data`, or on the run's validation split, and pick the `mistakes` with the highest probability.

    Anything missing from the run is logged and added to the notes. Raise ValueError for `data` that does not fit.
    """
    notes: list[str] = []
    model, epoch = _load_best(record, notes)
    if model is None:
        return Evidence(notes=notes)
    if isinstance(model, TrainedDetector):
        return _detect(record, model, data=data, epoch=epoch, device=device, notes=notes)
    cost = measure_cost(model, model.preprocess.image_size_px)
    if data is not None:
        images, description = (
            open_dataset(data).for_measuring(model.classes, random_split=model.split),
            f"images of {data}",
        )
    else:
        images, description = _validation_images(record, model.classes, notes), "validation images"
    if images is None:
        return Evidence(parameters=cost.parameters, macs=cost.macs, epoch=epoch, notes=notes)
    workers = choose_workers(None, World(device=device))
    predictions = predict_set(
        model, images, model.preprocess, device=device, batch_size=batch_size, workers=workers, label=record.label
    )
    if skipped := predictions.skipped:
        first = printable(skipped[0])
        _note(notes, f"{len(skipped)} of {len(images):,} images cannot be read and are skipped; the first is {first}.")
    wrong, right = predictions.mistakes()[:mistakes], predictions.successes(_EXPLAINED_SUCCESSES)
    return Evidence(
        parameters=cost.parameters,
        macs=cost.macs,
        epoch=epoch,
        data=description,
        predictions=predictions,
        mistakes=_examples(model, images, predictions, chosen=wrong, explained=_EXPLAINED_MISTAKES),
        successes=_examples(model, images, predictions, chosen=right, explained=len(right)),
        heat_cells=map_cells(model, model.preprocess.image_size_px),
        notes=notes,
    )


def _note(notes: list[str], sentence: str) -> None:
    notes.append(sentence)
    logger.warning("%s", sentence)


def _load_best(record: RunRecord, notes: list[str]) -> tuple[TrainedRexNet | TrainedDetector | None, int | None]:
    best = record.folder.best
    if not best.exists():
        why = "no epoch has finished yet"
        if record.rows:
            kept = f"; {record.folder.last} is still there" if record.folder.last.exists() else ""
            count = len(record.rows)
            why = f"it was lost after {quantity(count, 'epoch')}{kept}"
        _note(notes, f"{best} does not exist, so no images or classes are shown: {why}.")
        return None, None
    try:
        content = checkpoint.read(best)
        unpack = detectors.unpack if record.task == "detection" else checkpoint.unpack
        return unpack(content, source=os.fspath(best)), content["metrics"].get("epoch")
    except ValueError as error:
        _note(notes, f"Images and classes are not shown: {error}.")
        return None, None


def _validation_images(record: RunRecord, classes: tuple[str, ...], notes: list[str]) -> ImageSet | None:
    """Return the run's validation split, with targets that index `classes`; None if it is not available."""
    options = record.options()
    try:
        sets = open_dataset(record.config["data"]).for_training(
            val_fraction=options["input"]["val_fraction"],
            seed=options["run"]["seed"],
            shots=options["input"].get("shots"),
        )
        if set(sets.classes) != set(map(normal_name, classes)):
            raise ValueError(f"{record.config['data']} no longer has the classes of the run")
    except (ValueError, OSError) as error:
        _note_missing_images(error, notes)
        return None
    if record.data and sets.facts().differences(record.data):
        now, before = sets.description, record.data.description
        _note(notes, f"The data has changed since the run started: it is now {now}, and was {before}.")
    return sets.val.with_classes(classes)


def _note_missing_images(error: Exception, notes: list[str]) -> None:
    reason = " ".join(str(error).split())
    _note(notes, f"The images of the run are not available, so none are shown: {reason}; give others with --data.")


def _detect(
    record: RunRecord,
    model: TrainedDetector,
    *,
    data: str | None,
    epoch: int | None,
    device: torch.device,
    notes: list[str],
) -> Evidence:
    """Return the predicted objects in some images, spread evenly over a validation split."""
    parameters = sum(values.numel() for values in model.model.parameters())
    try:
        images = open_dataset(data or record.config["data"]).for_detection(bad_image="skip").val
    except (ValueError, OSError) as error:
        if data is not None:
            raise
        _note_missing_images(error, notes)
        return Evidence(parameters=parameters, epoch=epoch, notes=notes)
    predictor = ObjectPredictor(model, device=str(device))
    return Evidence(
        parameters=parameters,
        epoch=epoch,
        data=f"{len(images):,} images of {data}" if data else f"{len(images):,} validation images",
        detections=_detection_examples(predictor, images, notes),
        notes=notes,
    )


def _detection_examples(predictor: ObjectPredictor, images: CocoImages, notes: list[str]) -> list[DetectionExample]:
    examples = []
    for index in np.unique(np.linspace(0, len(images) - 1, _DETECTION_IMAGES).round().astype(int)).tolist():
        try:
            (found,) = predictor([images.load(index)], min_score=MIN_SCORE)
        except BadImageError as error:
            _note(notes, f"{error}, so it is not shown.")
            continue
        counts = ", ".join(f"{count} {name}" for name, count in Counter(found.names).items()) or "nothing"
        shown = thumbnail(found.plot(min_score=MIN_SCORE), side_px=_DETECTION_PX)
        examples.append(DetectionExample(name=images.name(index), image=shown, objects=counts))
    return examples


def _examples(
    model: TrainedRexNet, images: ImageSet, predictions: Predictions, *, chosen: np.ndarray, explained: int
) -> list[Example]:
    """Return the images at the positions `chosen` of `predictions`, the first `explained` of them with heat maps."""
    examples = []
    for number, position in enumerate(chosen.tolist()):
        # Open one at a time: an image may have a hundred million pixels.
        image = images.load(int(predictions.indices[position]))
        target, predicted = int(predictions.targets[position]), int(predictions.predicted[position])
        shown = [] if number >= explained else [predicted] if predicted == target else [predicted, target]
        heats = [*_heats(model, image, shown), None, None]
        examples.append(
            Example(
                name=images.name(int(predictions.indices[position])),
                target=predictions.classes[target],
                predicted=predictions.classes[predicted],
                probability=float(predictions.probabilities[position]),
                image=thumbnail(image),
                heat=heats[0],
                heat_target=heats[1],
            )
        )
    return examples


def _heats(model: TrainedRexNet, image: Image.Image, classes: list[int]) -> list[Thumbnail]:
    """Return a heat map of the image for each of `classes`."""
    if not classes:
        return []
    device = next(model.parameters()).device
    seen = model.preprocess(image)
    heats = grad_cam(
        model, seen.to(device).expand(len(classes), -1, -1, -1), torch.tensor(classes, device=device)
    ).cpu()
    return [heat_thumbnail(seen, heat, model.preprocess) for heat in heats]
