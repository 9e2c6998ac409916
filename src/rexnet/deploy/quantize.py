"""From a trained network to an int8 file, if it keeps its accuracy."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import tyro
from torch import Tensor

from rexnet.data.decode import BadImagePolicy
from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import EvalBatches
from rexnet.deploy.calibration import (
    Comparison,
    MeasuredBatches,
    drawn,
    labelled_sides,
    named_classes,
    unlabelled_sides,
)
from rexnet.deploy.exported_file import ExportedFile
from rexnet.deploy.fine_tuning import fine_tuned
from rexnet.deploy.int8_graph import Int8Backend, int8_graph, int8_layers, with_float_layers
from rexnet.deploy.int8_speed import Speed, measure_speed
from rexnet.deploy.sensitivity import most_sensitive_first
from rexnet.engines.backends import CHANNEL_MULTIPLE, Engine, Network, open_graph
from rexnet.engines.graph_files import write_graph
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.errors import require
from rexnet.files import check_output_file, made_aside
from rexnet.models.inference_form import folded, padded
from rexnet.models.rexnet import RexNet
from rexnet.text import plural
from rexnet.training import checkpoint
from rexnet.training.checkpoint import TrainedRexNet

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

BACKENDS: dict[str, Int8Backend] = {".onnx": "onnxruntime", ".xml": "openvino"}
"""What a file is made and measured for, by its ending."""
_SENSITIVITY_IMAGES = 64
_FINE_TUNING_IMAGES = 5000


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Makes an int8 file of a trained classifier, if it keeps its accuracy."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """best.pt of a run folder, a .safetensors file made from it, or a folder of `rexnet card`."""
    data: str
    """As for rexnet validate: images of the training side calibrate, those held back judge."""
    output: str
    """A file that ends in .onnx (for ONNX Runtime) or .xml (for OpenVINO)."""
    max_drop: float = 0.5
    """Points of top-1 that int8 may lose; nothing is written where it loses more."""
    measure: Literal["accuracy", "agreement"] = "accuracy"
    """agreement: for images without labels, count as right what the float network says."""
    calibration_images: int = 300
    """Images of the training side that tell the range of every activation."""
    fine_tune_epochs: int = 2
    """Passes over up to 5,000 images of the training side where all else loses too much; 0: none."""
    batch_size: int = 16
    """Images a step, and the larger batch whose speed is measured."""
    rounds: int = 20
    """Of the speed measurement, in which float32, bf16 and int8 take turns."""
    bad_image: BadImagePolicy = "error"
    """What to do with a file that cannot be read: stop and name it, or leave it out, name and count it."""
    threads: int | None = None
    """CPU threads; None leaves the engine's choice."""

    def __post_init__(self) -> None:
        require(Path(self.output).suffix in BACKENDS, "output", self.output, "a name that ends in .onnx or .xml")
        require(0 <= self.max_drop <= 100, "max_drop", self.max_drop, "0 to 100 points")
        for name in ("calibration_images", "batch_size", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.fine_tune_epochs >= 0, "fine_tune_epochs", self.fine_tune_epochs, "0 or more")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")

    @property
    def backend(self) -> Int8Backend:
        return BACKENDS[Path(self.output).suffix]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An int8 graph, and what was done for it."""

    graph: "onnx.ModelProto"
    float_layers: tuple[str, ...] = ()
    """Convolutions kept in float because they lose most, those that lose most first."""
    fine_tuned: bool = False


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What was written, and what is known of it."""

    comparison: Comparison
    calibration_images: int
    int8_layers: int
    float_layers: tuple[str, ...]
    fine_tuned: bool
    float_bytes: int
    int8_bytes: int
    speeds: list[Speed]


def quantize(config: QuantizeConfig) -> Quantized:
    """Writes the int8 file and tells how it compares with the float network, in the same engine.

    Tried in turn, until one loses at most `max_drop`: every convolution in int8; the layers that lose most in float, up
    to half of them; both again after fine-tuning. ValueError with both figures where none does, and then no file.
    """
    check_output_file(config.output)
    if config.threads:
        torch.set_num_threads(config.threads)
    model = checkpoint.load(config.checkpoint)
    labelled = config.measure == "accuracy"
    training, measured = labelled_sides(config.data, model) if labelled else unlabelled_sides(config.data)
    calibration = _loaded(drawn(training, config.calibration_images), model, config)
    if len(calibration) < config.calibration_images:
        text = "calibrated on %d %s only, of %d asked for"
        logger.warning(text, len(calibration), plural(len(calibration), "image"), config.calibration_images)
    network = folded(padded(model, CHANNEL_MULTIPLE))
    reference = onnx_graph(network)
    candidates = _candidates(network, reference, calibration, config=config, model=model, training=training)
    best, comparison = _first_good(candidates, reference, measured, config=config, model=model)
    content = reference.SerializeToString()
    speeds = measure_speed(
        content,
        best.graph.SerializeToString(),
        torch.cat(calibration[: config.batch_size]),
        backend=config.backend,
        rounds=config.rounds,
        threads=config.threads,
    )
    facts = ExportedFile(classes=model.classes, preprocess=model.preprocess, config=model.config, precision="int8")
    return Quantized(
        comparison=comparison,
        calibration_images=len(calibration),
        int8_layers=len(int8_layers(best.graph)),
        float_layers=best.float_layers,
        fine_tuned=best.fine_tuned,
        float_bytes=len(content),
        int8_bytes=_write(best.graph, facts, config.output),
        speeds=speeds,
    )


def _write(graph: "onnx.ModelProto", facts: ExportedFile, output: str) -> int:
    """Returns the bytes of the file, or of both where its weights lie beside it."""
    with made_aside(output) as inside:
        write_graph(graph, facts.to_dict(), inside)
        return sum(file.stat().st_size for file in inside.parent.iterdir())


def _loaded(images: ImageSet, model: TrainedRexNet, config: QuantizeConfig) -> list[Tensor]:
    """Single images, (1, 3, H, W) each."""
    batches = EvalBatches(images, model.preprocess, batch_size=1, bad_image=config.bad_image)
    if not (found := [batch.images for batch in batches]):
        raise ValueError("none of the images to calibrate on can be read")
    return found


def _candidates(
    network: RexNet,
    reference: "onnx.ModelProto",
    calibration: list[Tensor],
    *,
    config: QuantizeConfig,
    model: TrainedRexNet,
    training: ImageSet,
) -> Iterator[Candidate]:
    """The fastest first."""
    few = torch.cat(calibration[:_SENSITIVITY_IMAGES])
    for tuned in (False, True):
        if tuned:
            if not config.fine_tune_epochs:
                return
            some = drawn(training, _FINE_TUNING_IMAGES)
            reference = onnx_graph(fine_tuned(network, some, model.preprocess, epochs=config.fine_tune_epochs))
        int8 = int8_graph(reference, calibration, config.backend)
        yield Candidate(graph=int8, fine_tuned=tuned)
        order = most_sensitive_first(int8, reference, few)
        count = 1
        while count <= len(order) // 2:
            names = tuple(order[:count])
            yield Candidate(graph=with_float_layers(int8, reference, names), float_layers=names, fine_tuned=tuned)
            count *= 2


def _first_good(
    candidates: Iterator[Candidate],
    reference: "onnx.ModelProto",
    measured: ImageSet,
    *,
    config: QuantizeConfig,
    model: TrainedRexNet,
) -> tuple[Candidate, Comparison]:
    """The first candidate that loses little enough. ValueError where none does."""
    engine = Engine(backend=config.backend, threads=config.threads)
    batches = MeasuredBatches(measured, model.preprocess, batch_size=config.batch_size, bad_image=config.bad_image)

    def opened(graph: "onnx.ModelProto") -> Network:
        return open_graph(graph.SerializeToString(), engine)

    float_named, targets = named_classes(opened(reference), batches)
    right = float_named if config.measure == "agreement" else targets
    best: Comparison | None = None
    for candidate in candidates:
        named, _ = named_classes(opened(candidate.graph), batches)
        comparison = Comparison.of(float_named, named, right)
        kept, how = len(candidate.float_layers), ", fine-tuned" if candidate.fine_tuned else ""
        text = "int8%s with %d %s in float: %.2f %% of %d images, a drop of %.2f points"
        values = (how, kept, plural(kept, "layer"), comparison.int8_percent, comparison.images, comparison.drop)
        logger.info(text, *values)
        if comparison.drop <= config.max_drop:
            return candidate, comparison
        if best is None or comparison.drop < best.drop:
            best = comparison
    assert best is not None
    raise ValueError(
        f"int8 loses too much, and nothing was written: it names {best.int8_percent:.2f} % of {best.images} images "
        f"rightly, float32 {best.float_percent:.2f} %, a drop of {best.drop:.2f} points where --max-drop allows "
        f"{config.max_drop:g}"
    )
