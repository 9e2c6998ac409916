"""`rexnet export`: a network as a file that other programs run, compared with PyTorch before it gets its name."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import tyro

from rexnet.data.sample_images import sample_pictures
from rexnet.data.transforms import Preprocess
from rexnet.deploy.exported_file import ExportedFile
from rexnet.deploy.graph_check import TOLERANCE, largest_difference
from rexnet.deploy.graph_writing import WRITERS, compared_px
from rexnet.engines.backends import CHANNEL_MULTIPLE
from rexnet.engines.graph_files import Format, choose_format
from rexnet.engines.onnx_graph import Output
from rexnet.errors import OptionError, require
from rexnet.files import check_output_file, check_replaceable, made_aside
from rexnet.models.inference_form import folded, padded
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import create_model, means_model_folder
from rexnet.models.weights import load_weights, read_weights
from rexnet.text import printable
from rexnet.training.checkpoint import unpack

logger = logging.getLogger(__name__)

_CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the file is to be."""

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
    """Writes a network to a file that other programs run."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT|MODEL")]
    """best.pt of a run folder, of a classifier or a detector, a .safetensors file made from it, a folder of `rexnet
    card`, or the name of a network; `rexnet models` lists them."""
    output: str
    """File to write."""
    weights: str | None = None
    """Of a network that is given by name: a file, or published weights such as rexnet_100.nav_in1k; None: random."""
    options: ExportOptions = ExportOptions()

    def __post_init__(self) -> None:
        allowed = "none beside a checkpoint, which has its own"
        require(self.weights is None or not self.is_checkpoint, "weights", self.weights, allowed)

    @property
    def is_checkpoint(self) -> bool:
        """And not the name of a network."""
        return self.model.endswith(_CHECKPOINTS) or means_model_folder(self.model)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export` wrote."""

    path: Path
    bytes: int
    described: ExportedFile
    sizes_px: tuple[int, ...]
    """Sides of the images that were compared."""
    difference: float
    """Largest one from PyTorch, as a fraction of the largest number put out."""


def export_files(config: ExportConfig, content: dict[str, Any] | None) -> Exported:
    """What the command does with a classifier; `content` is that of its checkpoint, None for the name of a network.
    ValueError, one sentence, for a file or name that cannot be used."""
    _check_output(Path(config.output), config.options)
    if content is not None:
        return export(unpack(content, source=config.model), config.output, config.options)
    if config.weights is None:
        model = create_model(config.model)
        logger.warning("%s has random weights: good for measuring speed; --weights gives it others", config.model)
        return export(model, config.output, config.options)
    weights = read_weights(config.weights)
    model = create_model(config.model, in_channels=weights.layout.in_channels)
    load_weights(model, weights, classifier="keep")
    preprocess = Preprocess.from_dict(weights.preprocess) if weights.preprocess else None
    return export(model, config.output, config.options, classes=weights.classes, preprocess=preprocess)


def export(
    model: RexNet,
    path: str | PathLike[str],
    options: ExportOptions | None = None,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
) -> Exported:
    """Writes `model`, as it is in evaluation, to `path`; `model` is left alone.

    Batch norms are folded. `classes` and `preprocess` None: those of a network out of a checkpoint, else unknown and
    ImageNet's. The file is run on pictures, and gets its name only if it puts out what PyTorch does. ValueError, one
    sentence, where it does not, for a path that cannot be written, and with the pip line where a package is missing.
    """
    path, options = Path(path), options or ExportOptions()
    _check_output(path, options)
    described = ExportedFile(
        classes=tuple(getattr(model, "classes", ()) if classes is None else classes),
        preprocess=preprocess or getattr(model, "preprocess", Preprocess()),
        config=model.config,
        output=options.output_layer,
        pixels=options.pixels,
    )
    if options.pixels and model.config.in_channels != 3:
        raise OptionError(f"--pixels is on, but {model.name} takes {model.config.in_channels} channels; allowed: 3")
    pictures = sample_pictures(options.verify)
    eager = deepcopy(model).cpu().float().eval()
    kind = choose_format(str(path), options.format)
    writer, sizes_px = WRITERS[kind], compared_px(kind, described)
    with made_aside(path) as inside:
        run = writer.write(_prepared(eager, options), described, inside)
        difference = largest_difference(run, eager, described, pictures, sizes_px=sizes_px)
        size = sum(file.stat().st_size for file in inside.parent.rglob("*") if file.is_file())
    return Exported(path=path, bytes=size, described=described, sizes_px=sizes_px, difference=difference)


def _check_output(path: Path, options: ExportOptions) -> None:
    """Before any work."""
    kind = choose_format(str(path), options.format)
    check_output_file(path)
    more = (path.with_suffix(ending) for ending in WRITERS[kind].more_endings)
    check_replaceable(path, *more, overwrite=options.overwrite)


def _prepared(model: RexNet, options: ExportOptions) -> RexNet:
    multiple = options.channel_multiple or (1 if options.output_layer == "features" else CHANNEL_MULTIPLE)
    if multiple == 1:
        return folded(model)
    try:
        return folded(padded(model, multiple))
    except ValueError as error:
        raise OptionError(f"--channel-multiple is {multiple}, but {error}; 1 leaves channels as they are") from error


def told(exported: Exported) -> str:
    """Two lines for the terminal."""
    described = exported.described
    what = described.output
    if described.output == "logits" and described.config.num_classes:
        what = f"logits of {described.config.num_classes:,} classes"
    sizes = " and ".join(map(str, exported.sizes_px))
    return (
        f"{printable(exported.path)}: {described.config.name}, {what}, {exported.bytes / 1e6:,.1f} MB\n"
        f"largest difference from PyTorch at {sizes} px: {exported.difference:.1e} of the largest output "
        f"(allowed: {TOLERANCE:.0e})"
    )
