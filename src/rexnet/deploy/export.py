"""`rexnet export`: a network as a file that other programs run, compared with PyTorch before it gets its name."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import nn

from rexnet.data.sample_images import sample_pictures
from rexnet.data.transforms import Preprocess
from rexnet.deploy.exported_file import ExportedFile
from rexnet.deploy.graph_check import TOLERANCE, largest_difference
from rexnet.deploy.graph_writing import WRITERS, compared_px
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.detection.export import ExportedDetector, export_detector
from rexnet.engines.backends import CHANNEL_MULTIPLE
from rexnet.engines.graph_files import Format, choose_format
from rexnet.engines.onnx_graph import Output
from rexnet.errors import OptionError, require
from rexnet.files import check_output_file, check_replaceable, made_aside
from rexnet.loading import load_network, open_trained
from rexnet.models.factory import create_model
from rexnet.models.inference_form import folded, padded
from rexnet.models.rexnet import RexNet
from rexnet.models.weights import load_weights, read_weights
from rexnet.references import OWN_WEIGHTS, PRETRAINED, Kind, Reference, resolve
from rexnet.text import printable

logger = logging.getLogger(__name__)

EXPORTABLE: tuple[Kind, ...] = (*PRETRAINED, "config")
_NAMED: tuple[Kind, ...] = ("network", "config", "timm")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Form of the file."""

    format: Format | None = None
    """None: what the ending of the output says, .onnx, .xml (openvino) or .pt2 (torch-export)."""
    output_layer: Output = "logits"
    """logits; embedding, what enters the classifier; or features, the maps of stride 4, 8, 16 and 32."""
    pixels: bool = False
    """The file takes uint8 pixels (batch, height, width, 3) and normalises them itself."""
    channel_multiple: int | None = None
    """Pad channels with zeros to a multiple of this, which is exact and faster; 1: none. None: 8, and 1 with features,
    whose channels stay as they are."""
    verify: str | None = None
    """Folder of images to compare the file with PyTorch on; None: two photographs and noise, always the same."""
    overwrite: bool = False
    """Replace what is at the output."""

    def __post_init__(self) -> None:
        multiple = self.channel_multiple
        require(multiple is None or multiple >= 1, "channel_multiple", multiple, "1 or more, or None")
        with_features = self.output_layer == "features" and multiple not in (None, 1)
        require(not with_features, "channel_multiple", multiple, "1 with --output-layer features")

    def for_detector(self) -> dict[str, Any]:
        """The options that a detector has. OptionError where another is set."""
        for name in ("output_layer", "channel_multiple"):
            default = type(self).__dataclass_fields__[name].default
            require(getattr(self, name) == default, name, getattr(self, name), f"{default} for a detector")
        return {name: getattr(self, name) for name in ("format", "pixels", "verify", "overwrite")}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a network to a file that other programs run."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run folder or a checkpoint, of a classifier or a detector, a folder of `rexnet card` or hf://OWNER/NAME,
    published weights such as rexnet_100.nav_in1k, timm/NAME, or the name of a network; `rexnet models` lists them."""
    output: str
    """File to write."""
    weights: str | None = None
    """Of a network that is given by name: a file, or published weights such as rexnet_100.nav_in1k; None: random."""
    options: ExportOptions = ExportOptions()

    def __post_init__(self) -> None:
        if self.weights is not None:
            named = resolve(self.model, allowed=EXPORTABLE).kind in _NAMED
            require(named, "weights", self.weights, "none beside a model that has its own")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The file that `export` wrote."""

    path: Path
    bytes: int
    described: ExportedFile
    sizes_px: tuple[int, ...]
    """Sides of the images that were compared."""
    difference: float
    """Largest one from PyTorch, as a fraction of the largest output."""

    def describe(self) -> str:
        """Return two lines for the terminal."""
        what, count = self.described.output, self.described.num_classes
        if what == "logits" and count:
            what = f"logits of {count:,} classes"
        head = f"{printable(self.path)}: {self.described.name}, {what}, {self.bytes / 1e6:,.1f} MB"
        sizes = " and ".join(map(str, self.sizes_px))
        difference = f"{self.difference:.1e} of the largest output (allowed: {TOLERANCE:.0e})"
        return f"{head}\nlargest difference from PyTorch at {sizes} px: {difference}"


def export_files(config: ExportConfig) -> Exported | ExportedDetector:
    """Write the classifier or detector that `config` names. ValueError, one sentence, for what cannot be used."""
    _check_output(Path(config.output), config.options)
    reference = resolve(config.model, allowed=EXPORTABLE)
    model = _load(reference, config.weights)
    if isinstance(model, TrainedDetector):
        return export_detector(model, config.output, **config.options.for_detector())
    return export(model, config.output, config.options, name=config.model)


def _load(reference: Reference, weights: str | None) -> Any:
    if weights is None:
        if reference.kind in ("network", "config"):
            logger.warning("%s has random weights: good for measuring speed; --weights gives it others", reference.text)
        return load_network(reference, pretrained=reference.kind in ("timm", "torchvision"))
    if reference.kind == "timm":
        return open_trained(resolve(weights, allowed=OWN_WEIGHTS), network=reference.text)
    source = resolve(weights, allowed=("published", *OWN_WEIGHTS))
    read = read_weights(source.text if source.kind == "published" else source.file)
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
    """Write `model`, as it is in evaluation, to `path`; `model` is left alone.

    Batch norms of a RexNet are folded; a network of timm's is traced, and `name` says which it is. `classes` and
    `preprocess` None: those that `rexnet.load` gave the network, else unknown and ImageNet's. The file is run on
    images, and gets its name only if it puts out what PyTorch does. ValueError, one sentence, where it does not, for a
    path that cannot be written, and with the pip line where a package is missing.
    """
    path, options = Path(path), options or ExportOptions()
    _check_output(path, options)
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
        raise OptionError("--output-layer is features; allowed for a network of timm's: logits or embedding")
    pictures = sample_pictures(options.verify)
    eager = deepcopy(model).cpu().float().eval()
    kind = choose_format(str(path), options.format)
    writer, sizes_px = WRITERS[kind], compared_px(kind, described)
    with made_aside(path) as inside:
        runs = writer.write(_prepared(eager, options), described, inside)
        difference = largest_difference(runs, eager, described, pictures, sizes_px=sizes_px)
        size = sum(file.stat().st_size for file in inside.parent.rglob("*") if file.is_file())
    return Exported(path=path, bytes=size, described=described, sizes_px=sizes_px, difference=difference)


def _check_output(path: Path, options: ExportOptions) -> None:
    """Before any work."""
    kind = choose_format(str(path), options.format)
    check_output_file(path)
    more = (path.with_suffix(ending) for ending in WRITERS[kind].more_endings)
    check_replaceable(path, *more, overwrite=options.overwrite)


def _prepared(model: nn.Module, options: ExportOptions) -> nn.Module:
    if not isinstance(model, RexNet):
        return model
    multiple = options.channel_multiple or (1 if options.output_layer == "features" else CHANNEL_MULTIPLE)
    if multiple == 1:
        return folded(model)
    try:
        return folded(padded(model, multiple))
    except ValueError as error:
        raise OptionError(f"--channel-multiple is {multiple}, but {error}; 1 leaves channels as they are") from error
