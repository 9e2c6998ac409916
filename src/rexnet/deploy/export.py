"""Export of a network to a file for other programs, whose outputs must match PyTorch's."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from rexnet.data.preprocess import Preprocess
from rexnet.deploy.classifiers import ExportedFile
from rexnet.deploy.config import ExportConfig, ExportOptions
from rexnet.deploy.graph_writing import TOLERANCE, WRITERS, largest_difference
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.detection.export import ExportedDetector, export_detector
from rexnet.engines.backends import CHANNEL_MULTIPLE
from rexnet.engines.config import check_graph_output
from rexnet.engines.graph_files import sample_images
from rexnet.errors import OptionError, require
from rexnet.files import made_aside
from rexnet.loading import load_network, open_trained
from rexnet.models.factory import create_model
from rexnet.models.inference_form import fold, pad
from rexnet.models.rexnet import RexNet
from rexnet.models.weights import load_weights, read_weights
from rexnet.references import EXPORTABLE, OWN_WEIGHTS, SAVED, Kind, Reference, resolve
from rexnet.text import printable, quantity

logger = logging.getLogger(__name__)

STEP_PX = 32
"""Difference, in pixels, between the two image sizes at which a file is compared."""
_NAMED: tuple[Kind, ...] = ("network", "config", "timm")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """File written by `export`."""

    path: Path
    bytes: int
    described: ExportedFile
    sizes_px: tuple[int, ...]
    """Sides of the compared images in pixels."""
    difference: float
    """Largest difference from PyTorch, as a fraction of the largest output."""

    def describe(self) -> str:
        """Return two lines for the terminal."""
        what, count = self.described.output, self.described.num_classes
        if what == "logits" and count:
            what = f"logits of {quantity(count, 'class')}"
        head = f"{printable(self.path)}: {self.described.name}, {what}, {self.bytes / 1e6:,.1f} MB"
        sizes = " and ".join(map(str, self.sizes_px))
        difference = f"{self.difference:.1e} of the largest output (allowed: {TOLERANCE:.0e})"
        return f"{head}\nlargest difference from PyTorch at {sizes} px: {difference}"


def export_files(config: ExportConfig) -> Exported | ExportedDetector:
    """Export the classifier or detector of `config`. Raise ValueError for a model that cannot be used."""
    config.check()
    reference = resolve(config.model, allowed=EXPORTABLE)
    named = config.weights is None or reference.kind in _NAMED
    require(named, "weights", config.weights, "None for a model that has its own")
    model = _load(reference, config.weights)
    if isinstance(model, TrainedDetector):
        return export_detector(model, config.output, **config.options.for_detector())
    return export(model, config.output, config.options, name=config.model)


def _load(reference: Reference, weights: str | None) -> Any:
    if weights is None:
        if reference.kind in ("network", "config"):
            logger.warning(
                "%s has random weights, which suffice to measure speed; give trained ones with --weights",
                reference.text,
            )
        return load_network(reference, pretrained=reference.kind in ("timm", "torchvision"))
    if reference.kind == "timm":
        return open_trained(resolve(weights, allowed=OWN_WEIGHTS), network=reference.text)
    read = read_weights(resolve(weights, allowed=SAVED).weights)
    model: Any = create_model(reference.text, in_channels=read.layout.in_channels)
    load_weights(model, read, classifier="keep")
    model.classes = read.classes or ()
    model.preprocess = Preprocess.from_dict(read.preprocess) if read.preprocess else Preprocess()
    return model


def export(
    model: nn.Module,
    path: str | PathLike[str],
    options: ExportOptions | None = None,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    name: str = "",
) -> Exported:
    """Write `model` in eval mode to `path`; `model` is not changed.

    Batch norms of a RexNet are folded; a timm network is traced, and `name` is its name. `classes` and `preprocess`
    None: the attributes that `rexnet.load` sets, else no names and ImageNet's preprocessing. The file is run on images,
    and is kept only if its outputs match PyTorch's. Raise ValueError if they do not, for a path that cannot be written,
    or for a missing package.
    """
    path, options = Path(path), options or ExportOptions()
    format = check_graph_output(path, options.format, overwrite=options.overwrite)
    described = ExportedFile(
        classes=tuple(getattr(model, "classes", ()) if classes is None else classes),
        preprocess=preprocess or getattr(model, "preprocess", Preprocess()),
        config=model.config if isinstance(model, RexNet) else name,
        output=options.output_layer,
        pixels=options.pixels,
    )
    if options.pixels and described.in_channels != 3:
        raise OptionError(f"--pixels is on, but {described.name} takes {described.in_channels} channels; allowed: 3")
    if options.output_layer == "features" and not isinstance(model, RexNet):
        raise OptionError("--output-layer is features; allowed for a timm network: logits or embedding")
    images = sample_images(options.verify)
    eager = deepcopy(model).cpu().float().eval()
    size_px = described.preprocess.image_size_px
    sizes_px = (size_px, size_px + STEP_PX)
    with made_aside(path) as inside:
        runs = WRITERS[format](_prepare(eager, options), described, inside)
        difference = largest_difference(runs, eager, described, images, sizes_px=sizes_px)
        size = sum(file.stat().st_size for file in inside.parent.rglob("*") if file.is_file())
    return Exported(path=path, bytes=size, described=described, sizes_px=sizes_px, difference=difference)


def _prepare(model: nn.Module, options: ExportOptions) -> nn.Module:
    if not isinstance(model, RexNet):
        return model
    multiple = options.channel_multiple or (1 if options.output_layer == "features" else CHANNEL_MULTIPLE)
    if multiple == 1:
        return fold(model)
    try:
        return fold(pad(model, multiple))
    except ValueError as error:
        raise OptionError(f"--channel-multiple is {multiple}, but {error}; use 1 for no padding") from error
