"""Teachers of `rexnet train`, opened from the values of --teacher."""

import torch

from rexnet.deploy.classifiers import Classifier
from rexnet.deploy.predictor import open_model
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.engines.backends import NetworkModule
from rexnet.engines.config import Engine, list_parts
from rexnet.errors import ModelError, OptionError, WeightsError
from rexnet.files import digest_of
from rexnet.references import PREDICTABLE, Reference, resolve
from rexnet.training import checkpoint
from rexnet.training.teacher_config import TeacherConfig
from rexnet.training.teachers import Teacher


def open_teachers(config: TeacherConfig, *, threads: int | None = None) -> tuple[Teacher, ...]:
    """Return the teachers that `config` names; `threads` are for exported files. Raise WeightsError
    or OptionError for a teacher that is not a trained classifier."""
    return tuple(_open(name, config.teacher_weights, threads) for name in config.teacher)


def _open(name: str, weights: str | None, threads: int | None) -> Teacher:
    try:
        reference = resolve(name, allowed=PREDICTABLE)
        found = _open_trained(reference, weights)
    except WeightsError as error:
        kind = ModelError if isinstance(error, ModelError) else WeightsError
        raise kind(f"--teacher {name}: {error}") from error
    if isinstance(found, TrainedDetector):
        raise OptionError(f"--teacher {name} is a detector; allowed: a classifier")
    if found.pixels:
        raise OptionError(f"--teacher {name} takes uint8 pixels; allowed: a file exported without --pixels")
    if found.model is not None:
        network, sha256 = found.model, checkpoint.hash_weights(found.model.state_dict())
    else:
        engine = Engine(backend=found.backends[0], precision=found.precision, threads=threads)
        network, sha256 = (
            NetworkModule(found.open(engine, device=torch.device("cpu"))),
            digest_of(*list_parts(reference.path)),
        )
    network.requires_grad_(False)
    return Teacher(name, network, found.classes, found.preprocess, sha256)


def _open_trained(reference: Reference, weights: str | None) -> Classifier | TrainedDetector:
    if weights is not None:
        return open_model(weights, network=reference.text)
    try:
        return open_model(reference)
    except WeightsError as error:
        if reference.kind != "timm":
            raise
        raise WeightsError(f"{str(error).partition(';')[0]}; give a file with --teacher-weights") from error
