"""Weights for networks: official files, timm files and checkpoints of this package, checked before the first tensor is
copied."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rexnet.errors import WeightsError
from rexnet.models.layouts import Layout, describe_layout, find_variant, layout_of
from rexnet.models.published import PUBLISHED, PublishedWeights, download_weights, published_for
from rexnet.models.rexnet import RexNet
from rexnet.models.timm_keys import has_timm_keys, native_to_timm, timm_to_native
from rexnet.models.weight_files import CHECKPOINT_FORMAT, SUFFIXES, extract_state_dict, read_checkpoint_file
from rexnet.text import normal_name

__all__ = [
    "CHECKPOINT_FORMAT",
    "PUBLISHED",
    "ClassifierPolicy",
    "LoadReport",
    "PublishedWeights",
    "Weights",
    "download_weights",
    "extract_state_dict",
    "load_weights",
    "native_to_timm",
    "read_checkpoint_file",
    "read_weights",
    "timm_to_native",
]

logger = logging.getLogger(__name__)

ClassifierPolicy = Literal["strict", "keep", "reset"]
Kind = Literal["official", "timm", "checkpoint"]
Source = str | PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors of a ReXNet under the official keys, and their file's facts."""

    source: str
    kind: Kind
    """Form of the file: official keys, timm's keys, or a checkpoint of this project."""
    state_dict: dict[str, Tensor]
    layout: Layout
    classes: tuple[str, ...] | None = None
    """Class names in the order of the logits."""
    preprocess: dict[str, Any] | None = None
    """Evaluation transform in plain values."""
    config: dict[str, Any] | None = None
    """RexNetConfig of a checkpoint of this project, in plain values."""

    @property
    def variant(self) -> str | None:
        """Return the `create_model` name; None for a network without one."""
        config = find_variant(self.layout)
        return config.name if config else None


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Outcome of `load_weights`."""

    loaded: int
    """Tensors of the model that come from the source."""
    total: int
    """Tensors of the model."""
    kind: Kind
    source: str
    variant: str | None
    """Name for `create_model` of the source's network; None if it has none."""
    not_loaded: tuple[str, ...]
    """Names of the model's tensors that do not come from the source."""
    classes: tuple[str, ...] | None
    """Class names of the source, even if its classifier was not copied."""
    preprocess: dict[str, Any] | None


def read_weights(source: Source, *, label: str | None = None) -> Weights:
    """Read a file, published weights by name (downloaded if needed), or a state dict; see `load_weights`. `label` names
    the source in messages."""
    content, name, published = _find(source)
    label = label or name
    if content.get("format") == CHECKPOINT_FORMAT and content.get("task"):
        raise WeightsError(f"{label} holds a detector; the weights of a classifier are needed here")
    tensors = extract_state_dict(content, source=label)
    kind: Kind = "checkpoint" if content.get("format") == CHECKPOINT_FORMAT else "official"
    try:
        if has_timm_keys(tensors):
            kind, tensors = "timm", timm_to_native(tensors)
        layout = layout_of(tensors)
    except WeightsError as error:
        raise WeightsError(f"{label} contains no ReXNet: {error}") from error
    facts = content if kind == "checkpoint" else {}
    classes = facts.get("classes") or ()
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise WeightsError(f"{label} has class names that are not a list of strings; pass another file")
    return Weights(
        source=label,
        kind=kind,
        state_dict=tensors,
        layout=layout,
        classes=tuple(map(normal_name, classes)) or None,
        preprocess=published.preprocess if published else facts.get("preprocess"),
        config=facts.get("model"),
    )


def load_weights(model: RexNet, source: Source | Weights, *, classifier: ClassifierPolicy = "strict") -> LoadReport:
    """Copy weights into `model`, all or nothing, and log "N of M tensors loaded from ...".

    `source`: an official file, one of timm or of this package (`.pth`, `.pt`, `.bin`, `.safetensors`), a name in
    `PUBLISHED`, a state dict, or a result of `read_weights`. `classifier`: "strict" rejects another class count,
    "reset" gives the model a new random classifier for its own class count, "keep" gives it the source's classifier and
    class count. A model without a classifier gets one only with "keep". Raise WeightsError, with the model unchanged.
    """
    if classifier not in get_args(ClassifierPolicy):
        raise WeightsError(f"classifier is {classifier!r}; allowed: {', '.join(get_args(ClassifierPolicy))}")
    weights = source if isinstance(source, Weights) else read_weights(source)
    own_layout = layout_of(model.state_dict())
    taken = _choose_tensors(weights, model, own_layout, classifier)
    if classifier == "reset":
        model.reset_classifier(own_layout.num_classes)
    elif classifier == "keep" and weights.layout.num_classes != own_layout.num_classes:
        model.reset_classifier(weights.layout.num_classes)
    own = model.state_dict()
    missing = tuple(key for key in own if key not in taken)
    model.load_state_dict({**own, **taken})
    report = LoadReport(
        loaded=len(own) - len(missing),
        total=len(own),
        kind=weights.kind,
        source=weights.source,
        variant=weights.variant,
        not_loaded=missing,
        classes=weights.classes,
        preprocess=weights.preprocess,
    )
    rest = f"; not {', '.join(missing[:2])}{', ...' if len(missing) > 2 else ''}" if missing else ""
    logger.info("%d of %d tensors loaded from %s%s", report.loaded, report.total, report.source, rest)
    return report


def _find(source: Source) -> tuple[Mapping[str, Any], str, PublishedWeights | None]:
    """Return the content, its name in messages, and its row of PUBLISHED, if any."""
    if isinstance(source, Mapping):
        return source, "the given state dict", None
    name = os.fspath(source)
    if name in PUBLISHED:
        path = download_weights(name)
        return read_checkpoint_file(path), f"{name} ({str(path)!r})", PUBLISHED[name]
    if not os.path.exists(name) and os.sep not in name and not name.endswith((*SUFFIXES, ".tar")):
        raise WeightsError(f"there is neither a file nor published weights called {name!r}; {_suggest(name)}")
    return read_checkpoint_file(name), repr(name), None


def _suggest(name: str) -> str:
    rows = [row.name for row in published_for(name.partition(".")[0])]
    names = rows or get_close_matches(name, PUBLISHED, n=4, cutoff=0.7) or list(PUBLISHED)
    return f"published: {', '.join(names)}"


def _choose_tensors(weights: Weights, model: RexNet, own: Layout, classifier: ClassifierPolicy) -> dict[str, Tensor]:
    """Return the tensors to copy, all of which fit."""
    check_network(weights, own)
    _check_image_channels(weights, own)
    _check_classifier(weights, own, classifier)
    taken, expected = weights.state_dict, model.state_dict()
    theirs = weights.layout
    if classifier == "keep":
        sizes = (theirs.num_classes, model.head_hidden_size, 1, 1), (theirs.num_classes,)
        for key, size in zip(theirs.classifier_keys, sizes, strict=False):
            expected[key] = torch.empty(size, device="meta")
    elif classifier == "reset" or not own.num_classes:
        taken = {key: value for key, value in taken.items() if key not in theirs.classifier_keys}
        expected = {key: value for key, value in expected.items() if key not in own.classifier_keys}
    _check_tensors(weights, taken, expected)
    return taken


def check_network(weights: Weights, own: Layout) -> None:
    """Raise WeightsError, naming both networks, unless they are alike up to image channels and classes."""
    if weights.layout.network != own.network:
        raise WeightsError(
            f"{weights.source} is {describe_layout(weights.layout)}, but the model is {describe_layout(own)}; "
            "create the model that fits the file, or pass a file that fits the model"
        )


def _check_image_channels(weights: Weights, own: Layout) -> None:
    in_channels = weights.layout.in_channels
    if in_channels != own.in_channels:
        raise WeightsError(
            f"{weights.source} takes images with {in_channels} channels, but the model takes {own.in_channels}; "
            f"create the model with in_channels={in_channels}"
        )


def _check_classifier(weights: Weights, own: Layout, classifier: ClassifierPolicy) -> None:
    file_classes = weights.layout.num_classes
    if not own.num_classes or classifier == "reset" or file_classes == own.num_classes:
        return
    if not file_classes:
        raise WeightsError(f'{weights.source} has no classifier; pass classifier="reset" for a new random one')
    if classifier == "strict":
        raise WeightsError(
            f"{weights.source} has {file_classes} classes, but the model has {own.num_classes}; pass "
            'classifier="reset" for a new random classifier or classifier="keep" for the file\'s'
        )


def _check_tensors(weights: Weights, taken: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise WeightsError unless `taken` can be copied over `expected`, tensor by tensor."""
    # Files older than PyTorch 0.4.1 lack the counters, which only matter for a norm without momentum.
    missing = [key for key in expected if key not in taken and not key.endswith("num_batches_tracked")]
    for problem, keys in (("lacks", missing), ("has unknown", [key for key in taken if key not in expected])):
        if keys:
            names = f"{', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
            raise WeightsError(f"{weights.source} {problem} tensors ({names}); pass a file that fits the model")
    for key, value in taken.items():
        own = expected[key]
        if value.shape != own.shape:
            shapes = f"{tuple(value.shape)}, but the model has {tuple(own.shape)}"
            raise WeightsError(f"{weights.source} has {key} of shape {shapes}; pass a file that fits the model")
        if value.layout != torch.strided or value.is_floating_point() != own.is_floating_point():
            kinds = f"{value.layout} {value.dtype}, but the model has {own.dtype}"
            raise WeightsError(f"{weights.source} has {key} as {kinds}; pass a file that fits the model")
        if not value.to(own.dtype).isfinite().all():
            raise WeightsError(f"{weights.source} has values in {key} that are not finite; pass another file")
