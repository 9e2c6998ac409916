"""Networks by name, with or without weights."""

from os import PathLike
from typing import Unpack

from rexnet.models.rexnet import RexNet
from rexnet.models.variants import ModelOptions, model_config
from rexnet.models.weights import load_weights


def create_model(name: str, *, weights: str | PathLike[str] | None = None, **options: Unpack[ModelOptions]) -> RexNet:
    """A network in training mode, randomly initialised, or with `weights`: a file or the name of published weights.

    `options` as in `model_config`. Weights for another class count are an error here; `rexnet.load_weights` can keep
    or reset the classifier.
    """
    model = RexNet(model_config(name, **options))
    if weights is not None:
        load_weights(model, weights)
    return model
