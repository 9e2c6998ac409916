"""What a run's network does with images it was not trained on: gathered for its report."""

import logging
import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from rexnet.data.datasets.folder import load_image_sets, load_labelled_images
from rexnet.data.image_set import ImageSet
from rexnet.models.cost import Cost, measure_cost
from rexnet.models.gradcam import grad_cam, map_cells
from rexnet.report.images import Picture, heat_picture, thumbnail
from rexnet.report.predictions import Predictions, predict_set
from rexnet.text import plural, printable
from rexnet.training import checkpoint
from rexnet.training.checkpoint import TrainedRexNet
from rexnet.training.classify import choose_workers
from rexnet.training.distributed import World
from rexnet.training.run_record import RunRecord

logger = logging.getLogger(__name__)

_EXPLAINED_MISTAKES = 8
_EXPLAINED_SUCCESSES = 6


class Specimen(NamedTuple):
    """One image of the report. `heat` shows where the network sees the class it named, `heat_target` the right one."""

    name: str
    target: str
    predicted: str
    probability: float
    picture: Picture
    heat: Picture | None
    heat_target: Picture | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything is empty but `notes`, which say why, where the run's network or images are not at hand."""

    cost: Cost | None = None
    epoch: int | None = None
    """After which best.pt was written."""
    data: str = ""
    """What the images are, as it stands after their number."""
    predictions: Predictions | None = None
    mistakes: list[Specimen] = field(default_factory=list)
    successes: list[Specimen] = field(default_factory=list)
    heat_cells: int = 0
    """Cells a side that a heat map has before it is enlarged."""
    notes: list[str] = field(default_factory=list)


def gather_evidence(
    record: RunRecord, *, data: str | None, mistakes: int, batch_size: int, device: torch.device
) -> Evidence:
    """Evaluates best.pt on `data`, or on the images that the run held back, and picks the most confident `mistakes`.

    What is missing of the run is a note, logged too. ValueError for `data` that does not fit.
    """
    notes: list[str] = []
    model, epoch = _load_best(record, notes)
    if model is None:
        return Evidence(notes=notes)
    cost = measure_cost(model, model.preprocess.image_size_px)
    if data is not None:
        images, description = load_labelled_images(data, model.classes, drawn=model.split), f"images of {data}"
    else:
        images, description = _held_back_images(record, model.classes, notes), "held-back images"
    if images is None:
        return Evidence(cost=cost, epoch=epoch, notes=notes)
    workers = choose_workers(None, World(device=device))
    predictions = predict_set(
        model, images, model.preprocess, device=device, batch_size=batch_size, workers=workers, label=record.label
    )
    if skipped := predictions.skipped:
        first = printable(skipped[0])
        _note(notes, f"{len(skipped)} of {len(images):,} images cannot be read and are left out, the first is {first}.")
    wrong, right = predictions.mistakes()[:mistakes], predictions.successes(_EXPLAINED_SUCCESSES)
    return Evidence(
        cost=cost,
        epoch=epoch,
        data=description,
        predictions=predictions,
        mistakes=_specimens(model, images, predictions, chosen=wrong, explained=_EXPLAINED_MISTAKES),
        successes=_specimens(model, images, predictions, chosen=right, explained=len(right)),
        heat_cells=map_cells(model, model.preprocess.image_size_px),
        notes=notes,
    )


def _note(notes: list[str], sentence: str) -> None:
    notes.append(sentence)
    logger.warning("%s", sentence)


def _load_best(record: RunRecord, notes: list[str]) -> tuple[TrainedRexNet | None, int | None]:
    best = record.folder.best
    if not best.exists():
        why = "no epoch has ended yet"
        if record.rows:
            kept = f"; {record.folder.last} is still there" if record.folder.last.exists() else ""
            count = len(record.rows)
            why = f"it was lost after {count} {plural(count, 'epoch')}{kept}"
        _note(notes, f"{best} does not exist, so nothing is said of pictures and classes: {why}.")
        return None, None
    try:
        content = checkpoint.read(best)
        return checkpoint.unpack(content, source=os.fspath(best)), content["metrics"].get("epoch")
    except ValueError as error:
        _note(notes, f"Nothing is said of pictures and classes: {error}.")
        return None, None


def _held_back_images(record: RunRecord, classes: tuple[str, ...], notes: list[str]) -> ImageSet | None:
    """The images the run was validated on, with targets that index `classes`; None where they are not at hand."""
    options = record.options()
    try:
        sets = load_image_sets(
            record.config["data"],
            val_fraction=options["input"]["val_fraction"],
            seed=options["run"]["seed"],
            shots=options["input"].get("shots"),
        )
        if set(sets.classes) != set(classes):
            raise ValueError(f"{record.config['data']} has other classes now than the run")
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        _note(notes, f"The run's images are not at hand, so none are shown: {reason}; --data names others.")
        return None
    if record.data and sets.facts().differences(record.data):
        before = record.data.description
        _note(notes, f"The data has changed since the run began: it is {sets.description}, and was {before}.")
    return sets.val.with_classes(classes)


def _specimens(
    model: TrainedRexNet, images: ImageSet, predictions: Predictions, *, chosen: np.ndarray, explained: int
) -> list[Specimen]:
    """The images at the positions `chosen` of `predictions`, the first `explained` of them with heat maps."""
    specimens = []
    for number, position in enumerate(chosen.tolist()):
        # One at a time: a picture may have a hundred million pixels.
        image = images.load(int(predictions.indices[position]))
        target, predicted = int(predictions.targets[position]), int(predictions.predicted[position])
        shown = [] if number >= explained else [predicted] if predicted == target else [predicted, target]
        heats = [*_heats(model, image, shown), None, None]
        specimens.append(
            Specimen(
                name=images.name(int(predictions.indices[position])),
                target=predictions.classes[target],
                predicted=predictions.classes[predicted],
                probability=float(predictions.probabilities[position]),
                picture=thumbnail(image),
                heat=heats[0],
                heat_target=heats[1],
            )
        )
    return specimens


def _heats(model: TrainedRexNet, image: Image.Image, classes: list[int]) -> list[Picture]:
    """Where in the picture each of `classes` is seen."""
    if not classes:
        return []
    device = next(model.parameters()).device
    seen = model.preprocess(image)
    heats = grad_cam(
        model, seen.to(device).expand(len(classes), -1, -1, -1), torch.tensor(classes, device=device)
    ).cpu()
    return [heat_picture(seen, heat, model.preprocess) for heat in heats]
