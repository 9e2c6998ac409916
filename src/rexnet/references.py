"""Resolution of MODEL, the string that names a model in every command and function."""

import json
import logging
import mimetypes
import os
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Literal

from rexnet.errors import ModelError, WeightsError
from rexnet.files import read_text
from rexnet.models.hub import PREFIX, WEIGHTS, weights_path
from rexnet.models.published import PUBLISHED, download_weights, published_for
from rexnet.models.variants import FAMILIES, is_network_name, list_models
from rexnet.models.weight_files import SUFFIXES

logger = logging.getLogger(__name__)

Kind = Literal[
    "network",
    "published",
    "run",
    "weights",
    "folder",
    "hub",
    "exported",
    "config",
    "timm",
    "torchvision",
    "rewritten",
    "factory",
]
KINDS: dict[Kind, str] = {
    "network": "a network's name such as rexnet_100",
    "published": "published weights such as rexnet_100.nav_in1k",
    "run": "a run folder",
    "weights": f"a checkpoint or weights file ({', '.join(SUFFIXES)})",
    "folder": "a folder of `rexnet card`",
    "hub": f"{PREFIX}OWNER/NAME",
    "exported": "a file of `rexnet export` (.onnx, .xml)",
    "config": "the JSON file of a network",
    "timm": "timm/NAME",
    "torchvision": "torchvision/NAME",
    "rewritten": "rewritten/MODEL",
    "factory": "module:factory",
}
"""Kinds of MODEL and their description in messages."""
OWN_WEIGHTS: tuple[Kind, ...] = ("run", "weights", "folder", "hub")
"""Kinds that contain a state dict."""
SAVED: tuple[Kind, ...] = ("published", *OWN_WEIGHTS)
"""Kinds of weights to start from, which `read_weights` takes as `Reference.weights`."""
NETWORKS: tuple[Kind, ...] = ("network", "config", *OWN_WEIGHTS)
"""Kinds that name their network."""
PRETRAINED: tuple[Kind, ...] = ("published", *OWN_WEIGHTS, "network", "timm", "torchvision")
"""Kinds that can be opened as layers with trained weights; "network" only if it has published weights."""
PREDICTABLE: tuple[Kind, ...] = (*PRETRAINED, "exported")
EXPORTABLE: tuple[Kind, ...] = (*PRETRAINED, "config")
BENCHABLE: tuple[Kind, ...] = (*PRETRAINED, "exported", "config")
QUANTIZABLE: tuple[Kind, ...] = ("network", *SAVED)
DETECTORS: tuple[Kind, ...] = (*OWN_WEIGHTS, "exported")
BACKBONES: tuple[Kind, ...] = (*NETWORKS, "timm")
MEASURABLE: tuple[Kind, ...] = (*PRETRAINED, "config", "rewritten", "factory")
"""Kinds that a command accepts."""

BEST, LAST, PREVIOUS = "best.pt", "last.pt", "previous.pt"
"""Checkpoints in a run folder."""
_HUB_ADDRESS = re.compile(r"(?:hf[-_]hub:|https://(?:huggingface|hf)\.co/)([^/]+/[^/]+)/?")
"""Notations for a hub repository in other programs."""
_EXPORTED = (".onnx", ".xml", ".pt2")
_LIBRARIES: tuple[Kind, ...] = ("timm", "torchvision", "rewritten")


@dataclass(frozen=True)
class Reference:
    """A MODEL and its kind; nothing is opened or downloaded yet."""

    text: str
    """MODEL as given."""
    kind: Kind

    @property
    def name(self) -> str:
        """Name within its library, such as resnet18 for timm/resnet18; else the text."""
        return self.text.partition("/")[2] if self.kind in _LIBRARIES else self.text

    @property
    def path(self) -> Path:
        """Path of the file or folder."""
        return Path(self.text)

    @property
    def file(self) -> Path:
        """File to read: a run's best checkpoint, the downloaded copy of published weights or of a folder on the hub.
        Raise WeightsError if there is none."""
        if self.kind == "published":
            return download_weights(self.text)
        if self.kind == "network":
            return download_weights(self.published)
        if self.kind == "run":
            return _checkpoint_of(self.path)
        assert self.kind in ("weights", "folder", "hub", "exported", "config"), self
        return weights_path(self.text)

    @property
    def weights(self) -> str:
        """Argument of `rexnet.models.weights.read_weights`: the published name, or the file."""
        return self.text if self.kind == "published" else str(self.file)

    def require_weights(self) -> None:
        """Raise WeightsError for the name of a network without published weights; nothing is downloaded."""
        if self.kind == "network":
            assert self.published

    @property
    def published(self) -> str:
        """Published weights of a network given by name. Raise WeightsError if there are none."""
        if self.kind == "published":
            return self.text
        rows = published_for(self.text)
        if not rows:
            trained = "train it, or name its weights"
            raise WeightsError(
                f"there are no published weights of {self.text}, and random weights cannot predict; {trained}"
            )
        return rows[0].name


def resolve(model: str | PathLike[str], *, allowed: Collection[Kind] = tuple(KINDS), option: str = "") -> Reference:
    """Parse `model`. A known name takes precedence over a file of that name; ./NAME and a Path mean the file. Raise
    ModelError with the kind found and those `allowed`, and its base class WeightsError for a file that does not exist;
    the messages begin with the `option` that names the model, such as --teacher.
    """
    try:
        return _resolve(model, allowed)
    except WeightsError as error:
        if not option:
            raise
        raise type(error)(f"{option}: {error}") from error


def _resolve(model: str | PathLike[str], allowed: Collection[Kind]) -> Reference:
    text = os.fspath(model)
    kind = (_kind_of_name(text) if isinstance(model, str) else None) or _kind_of_path(text)
    if kind is None and re.fullmatch(r"[\w.]+:\w+", text):
        kind = "factory"
    if kind is None:
        error = WeightsError if _is_file_name(text) else ModelError
        raise error(f"{_unknown(text)}; {describe(allowed)}")
    if kind == "weights" and _is_image(text):
        raise ModelError(f"{text!r} is an image, not a model; {describe(allowed)}")
    if kind not in allowed:
        raise ModelError(f"{text!r} is {KINDS[kind]}; {describe(allowed)}")
    return Reference(text, kind)


def find_network(model: str, *, option: str = "") -> str | Path:
    """Return the argument of `model_config`: the name of a family or network unchanged, else the file that contains the
    network."""
    if model in FAMILIES:
        return model
    reference = resolve(model, allowed=NETWORKS, option=option)
    return reference.text if reference.kind == "network" else reference.file


def refuse_swapped(model: str, data: str, *, command: str) -> None:
    """Raise ModelError with the right order if MODEL was given after the images or data."""
    if not is_model(model) and is_model(data):
        order = f"rexnet {command} {shlex.quote(data)} {shlex.quote(model)}"
        raise ModelError(f"{model!r} is not a model, but {data!r} is one; MODEL comes first: {order}")


def is_model(text: str) -> bool:
    """Return whether a text certainly names a model; any file might be one, so weights are recognised by their
    extension."""
    try:
        return resolve(text).kind != "weights" or text.lower().endswith(SUFFIXES)
    except WeightsError:
        return False


def describe(allowed: Collection[Kind]) -> str:
    """Return the clause of a message that lists the allowed kinds of MODEL."""
    return f"allowed: {', '.join(words for kind, words in KINDS.items() if kind in allowed)}"


def is_run(path: str | PathLike[str]) -> bool:
    """Return True for a run folder: one with a run's checkpoint or settings that is not a model folder."""
    if os.path.isfile(Path(path, WEIGHTS)):
        return False
    return any(os.path.isfile(Path(path, name)) for name in (BEST, LAST, PREVIOUS)) or holds_settings(path)


def holds_settings(path: str | PathLike[str]) -> bool:
    """Return True if the folder's config.json is that of a run, not of a model folder."""
    try:
        settings = json.loads(read_text(Path(path, "config.json")))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and "network" in settings


def _kind_of_name(text: str) -> Kind | None:
    if text in PUBLISHED:
        return "published"
    if is_network_name(text):
        return "network"
    if text.startswith(PREFIX):
        return "hub"
    library, slash, name = text.partition("/")
    return next((kind for kind in _LIBRARIES if slash and name and kind == library), None)


def _kind_of_path(text: str) -> Kind | None:
    suffix = os.path.splitext(text)[1].lower()
    if os.path.isdir(text):
        if os.path.isfile(Path(text, WEIGHTS)):
            return "folder"
        return "run" if is_run(text) else None
    if not os.path.exists(text):
        return None
    return "exported" if suffix in _EXPORTED else "config" if suffix == ".json" else "weights"


def _is_image(path: str) -> bool:
    return (mimetypes.guess_type(path, strict=False)[0] or "").startswith("image/")


def _is_file_name(text: str) -> bool:
    """Return whether an unknown text looks like a path rather than a mistyped name."""
    file = os.sep in text or text.lower().endswith((*SUFFIXES, *_EXPORTED, ".json", ".tar"))
    return file and not os.path.isdir(text) and not _HUB_ADDRESS.fullmatch(text)


def _unknown(text: str) -> str:
    """Return the first clause of the error for a text that is not a model."""
    if repository := _HUB_ADDRESS.fullmatch(text):
        return f"{text!r} is another program's notation for a repository; write {PREFIX}{repository[1]}"
    if os.path.isdir(text):
        inside = sorted(name for name in os.listdir(text) if name.endswith(SUFFIXES))
        hint = f"; name a file in it, such as {inside[0]}" if inside else ""
        return f"{text!r} is a folder, but neither a run folder nor one of `rexnet card`{hint}"
    if _is_file_name(text):
        return f"there is no file {text!r}"
    rows = [row.name for row in published_for(text.partition(".")[0])] if "." in text else []
    close = rows or get_close_matches(text, [*list_models(), *PUBLISHED], n=3, cutoff=0.7)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"there is no network, file or folder {text!r}{hint}"


def _checkpoint_of(run: Path) -> Path:
    for name in (BEST, LAST, PREVIOUS):
        if (run / name).is_file():
            if name != BEST:
                logger.warning("%s has no %s; using %s, the weights of the last epoch", run, BEST, name)
            return run / name
    raise WeightsError(f"{str(run)!r} has no checkpoint yet; the first one is written after an epoch")
