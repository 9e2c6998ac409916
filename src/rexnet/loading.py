"""Loading of networks, classifiers and detectors by the argument MODEL."""

import os
from dataclasses import replace
from difflib import get_close_matches
from os import PathLike
from typing import Any, cast

import torch
from torch import Tensor, nn

from rexnet.data.imagenet import imagenet_classes
from rexnet.data.preprocess import Preprocess
from rexnet.detection import checkpoints as detectors
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.errors import ModelError, WeightsError
from rexnet.models.config import RexNetConfig
from rexnet.models.factory import create_model
from rexnet.models.hub import ask_url
from rexnet.models.layouts import find_variant
from rexnet.models.variants import model_config
from rexnet.models.weight_files import CHECKPOINT_FORMAT, extract_state_dict
from rexnet.models.weights import Weights, load_weights, read_weights
from rexnet.references import OWN_WEIGHTS, PRETRAINED, Kind, Reference, resolve
from rexnet.text import reason_of
from rexnet.timm_models import create_timm
from rexnet.training import checkpoint
from rexnet.training.checkpoint import TrainedRexNet

_NETWORKS: tuple[Kind, ...] = ("network", "config", "timm")
Trained = nn.Module | TrainedDetector
"""A classifier in eval mode with the attributes `classes` and `preprocess`, or a detector."""


def load(model: str | PathLike[str], device: str | torch.device = "cpu", *, network: str | None = None) -> Any:
    """Return the trained network that `model` names, in eval mode.

    `model`: a run folder, a checkpoint (.pt or .safetensors), a folder of `rexnet card` here or as hf://OWNER/NAME,
    published weights such as rexnet_100.nav_in1k, the name of a network with published weights, timm/NAME,
    torchvision/NAME, or an official or timm weights file, with `network` (a name, JSON file or timm/NAME) if the file
    does not name it. A classifier has the attributes `classes` and `preprocess`; a detector is a TrainedDetector. No
    code in a file is run. Raise WeightsError for a model that cannot be used.
    """
    trained = open_trained(resolve(model, allowed=PRETRAINED), network=network)
    if isinstance(trained, TrainedDetector):
        return trained._replace(model=trained.model.to(device))
    return trained.to(device)


def open_trained(reference: Reference, *, network: str | None = None) -> Trained:
    """Return the trained network of a reference whose kind is in PRETRAINED; see `load`."""
    if reference.kind not in OWN_WEIGHTS:
        if network is not None:
            raise WeightsError(
                f"{reference.text!r} names its network; --model {network} is only for files that do not name one"
            )
        if reference.kind in ("network", "published"):
            return _of_weights(read_weights(reference.published), None)
        return load_network(reference, pretrained=True)
    content = checkpoint.read(reference.file, foreign=True)
    if content.get("format") != CHECKPOINT_FORMAT:
        return _from_foreign(content, repr(reference.text), network)
    if network is not None:
        raise WeightsError(
            f"{reference.text!r} contains its network; --model {network} is only for files that do not contain one"
        )
    task = detectors if content.get("task") == checkpoint.DETECTION else checkpoint
    return task.unpack(content, source=reference.text)


def load_network(reference: Reference, *, pretrained: bool = False) -> Any:
    """Return a network to count, measure or export, with the attributes `classes`, perhaps empty, and `preprocess`.

    Its weights are those of the reference; for the name of a network, the published ones with `pretrained`, else random
    ones.
    """
    kind = reference.kind
    if kind in OWN_WEIGHTS or kind == "published" or (kind == "network" and pretrained):
        return open_trained(reference)
    if kind == "timm":
        model = create_timm(reference.name, pretrained=pretrained)
        return _describe(model, _timm_classes(model) if pretrained else (), _timm_preprocess(model))
    if kind == "torchvision":
        return _of_torchvision(reference.name, pretrained=pretrained)
    return _describe(create_model(reference.text), (), Preprocess())


def _from_foreign(content: Any, source: str, network: str | None) -> nn.Module:
    """Return the network of an official or timm weights file."""
    known = None if network is None else resolve(network, allowed=_NETWORKS)
    if known is not None and known.kind == "timm":
        return _of_timm(extract_state_dict(content, source=source), source, known)
    try:
        weights = read_weights(content, label=source)
    except WeightsError as error:
        hint = "" if known else "; for weights of another network, give --model, such as timm/resnet18"
        raise WeightsError(f"{error}{hint}") from error
    return _of_weights(weights, known and model_config(known.text))


def _of_weights(weights: Weights, config: RexNetConfig | None) -> TrainedRexNet:
    config = config or find_variant(weights.layout)
    if config is None:
        raise WeightsError(f"{weights.source} does not name its network; give it with --model")
    model = TrainedRexNet(replace(config, in_channels=weights.layout.in_channels))
    load_weights(model, weights, classifier="keep")
    model.split = None
    classes = weights.classes or imagenet_classes(model.num_classes)
    preprocess = Preprocess.from_dict(weights.preprocess) if weights.preprocess else Preprocess()
    return _describe(model, classes, preprocess)


def _of_timm(state: dict[str, Tensor], source: str, known: Reference) -> nn.Module:
    """Return timm's network with these weights and their number of classes."""
    head = getattr(create_timm(known.name), "pretrained_cfg", {}).get("classifier")
    bias = state.get(f"{head}.bias")
    options: dict[str, Any] = {} if bias is None else {"num_classes": len(bias)}
    model = create_timm(known.name, **options)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{source} does not fit {known.text} ({reason}); give its network with --model") from error
    return _describe(model, _timm_classes(model), _timm_preprocess(model))


def _timm_classes(model: nn.Module) -> tuple[str, ...]:
    return imagenet_classes(cast(int, model.num_classes))


def _timm_preprocess(model: nn.Module) -> Preprocess:
    from timm.data.config import resolve_data_config

    config = resolve_data_config({}, model=model)
    return Preprocess(
        image_size_px=config["input_size"][-1],
        crop_ratio=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )


def _of_torchvision(name: str, *, pretrained: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = get_close_matches(name, known, n=1)
        raise ModelError(f"torchvision has no classifier {name!r}" + (f"; did you mean {close[0]}?" if close else ""))
    if not pretrained:
        return _describe(models.get_model(name), (), Preprocess())
    weights = models.get_model_weights(name)["DEFAULT"]
    try:
        if not os.path.isfile(os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))):
            ask_url(weights.url)
        model = models.get_model(name, weights=weights)
    except OSError as error:
        raise WeightsError(f"the weights of torchvision/{name} could not be downloaded ({reason_of(error)})") from error
    crop = weights.transforms()
    preprocess = Preprocess(
        image_size_px=crop.crop_size[0],
        crop_ratio=crop.crop_size[0] / crop.resize_size[0],
        interpolation=crop.interpolation.value,
        mean=tuple(crop.mean),
        std=tuple(crop.std),
    )
    return _describe(model, tuple(weights.meta["categories"]), preprocess)


def _describe(model: Any, classes: tuple[str, ...], preprocess: Preprocess) -> Any:
    model.classes, model.preprocess = classes, preprocess
    return model.eval()
