"""Networks by name, with or without weights."""

from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from os import PathLike
from typing import Any, Unpack, get_type_hints

import torch
from torch import nn

from rexnet.errors import OptionError, WeightsError
from rexnet.models.blocks import ACTIVATIONS
from rexnet.models.config import RexNetConfig
from rexnet.models.published import published_for
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import ModelOptions, model_config
from rexnet.models.weights import load_weights, read_weights

_TIMM_NAMES = {"in_chans": "in_channels", "checkpoint_path": "weights"}
_OURS = {
    "features_only": "model.feature_maps(images) gives them",
    "out_indices": "model.forward_intermediates(images, indices) returns them",
    "norm_layer": "norm=NormConfig(momentum=..., eps=...) sets batch norm",
}
"""timm's options that have another name or form here."""


class CreateOptions(ModelOptions, total=False):
    """Options of `create_model`: those of `model_config` and timm's names."""

    in_chans: int
    checkpoint_path: str | PathLike[str]
    act_layer: str | type[nn.Module]
    """Activation after the stem, the expansions and the penultimate convolution: a key of ACTIVATIONS, or its class."""
    global_pool: str
    device: str | torch.device
    dtype: torch.dtype


def create_model(
    name: str, *, weights: str | PathLike[str] | None = None, pretrained: bool = False, **options: Unpack[CreateOptions]
) -> RexNet:
    """Return a network in training mode, randomly initialised or with `weights`: a file or a published name.

    `options` as in `model_config`, or timm's. Weights for another class count are an error; `rexnet.load_weights` can
    keep or reset the classifier. `pretrained`: the first published weights of the name, with a new classifier for
    another class count.
    """
    _check_options(options)
    for theirs, ours in _TIMM_NAMES.items():
        if theirs in options and (ours in options or (ours == "weights" and weights)):
            raise OptionError(f"{theirs} and {ours} are two names for the same option; give one of them")
    given: dict[str, Any] = {_TIMM_NAMES.get(option, option): value for option, value in options.items()}
    weights = given.pop("weights", None) or weights
    activation, pool = given.pop("act_layer", None), given.pop("global_pool", None)
    place = {option: given.pop(option) for option in ("device", "dtype") if option in given}
    config = model_config(name, **given)
    if activation is not None:
        config = _with_activation(config, activation)
    model = RexNet(config)
    if pool is not None:
        model.reset_classifier(config.num_classes, pool)
    if pretrained:
        _load_published(model, weights)
    elif weights:
        load_weights(model, weights)
    return model.to(**place) if place else model


def _check_options(given: Iterable[str]) -> None:
    known = get_type_hints(CreateOptions)
    for option in given:
        # Other fields of the config are for experiments.
        if option not in known and option not in RexNetConfig.__dataclass_fields__:
            close = get_close_matches(option, known, n=1)
            hint = _OURS.get(option) or (f"did you mean {close[0]}?" if close else f"allowed: {', '.join(known)}")
            raise OptionError(f"{option} is not an option of create_model; {hint}")


def _with_activation(config: RexNetConfig, given: str | type[nn.Module]) -> RexNetConfig:
    text = given if isinstance(given, str) else given.__name__
    known = {name.replace("_", ""): name for name in ACTIVATIONS} | {"swish": "silu"}
    name = known.get(text.lower().replace("_", ""))
    if name is None:
        raise OptionError(f"act_layer is {text!r}; allowed: {', '.join(ACTIVATIONS)}")
    blocks = tuple(replace(block, expand_activation=name) for block in config.blocks)
    return replace(config, activation=name, blocks=blocks)


def _load_published(model: RexNet, weights: str | PathLike[str] | None) -> None:
    if weights:
        raise WeightsError(f"weights is {str(weights)!r} together with pretrained=True; allowed: one of the two")
    rows = published_for(model.name)
    if not rows:
        raise WeightsError(f"there are no published weights of {model.name}; weights= takes a file")
    read = read_weights(rows[0].name)
    load_weights(model, read, classifier="strict" if model.num_classes == read.layout.num_classes else "reset")
