"""Quantisation of a trained network to an int8 file that keeps its accuracy."""

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rexnet.data.image_set import ImageSet
from rexnet.data.loaders import Batch, EvalBatches
from rexnet.deploy.calibration import Comparison, draw_images, labelled_splits, predicted_classes, unlabelled_splits
from rexnet.deploy.classifiers import EngineCheck, ExportedFile, FilePrecision, open_native
from rexnet.deploy.config import QuantizeConfig
from rexnet.deploy.int8_graph import int8_graph, int8_layers
from rexnet.engines.backends import CHANNEL_MULTIPLE, Network, is_installed, open_graph, open_network
from rexnet.engines.config import FILE_BACKENDS, Backend, Engine
from rexnet.engines.graph_files import write_graph
from rexnet.engines.measuring import measure_apart
from rexnet.engines.onnx_graph import onnx_graph
from rexnet.errors import WeightsError
from rexnet.files import made_aside
from rexnet.loading import open_trained
from rexnet.models.inference_form import fold, pad
from rexnet.references import QUANTIZABLE, resolve
from rexnet.text import plural
from rexnet.training.checkpoint import TrainedRexNet

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

TRIED_IMAGES = 200
"""Number of images on which every engine is checked, at batch 1 and at a larger batch."""
_ENGINE_NAMES: Mapping[Backend, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "native": "native"}


@dataclass(frozen=True)
class Contender:
    """Precision and engine of a speed measurement."""

    precision: FilePrecision
    backend: Backend

    def __str__(self) -> str:
        return f"{self.precision.replace('fp32', 'float32')} ({_ENGINE_NAMES[self.backend]})"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Milliseconds per batch in each round, in which the contenders take turns."""

    batch: int
    ms: Mapping[Contender, Sequence[float]]

    def median_ms(self, contender: Contender) -> float:
        return statistics.median(self.ms[contender])

    def fastest(self, *precisions: FilePrecision) -> Contender:
        return min((each for each in self.ms if each.precision in precisions), key=self.median_ms)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Facts of the written file."""

    comparison: Comparison
    calibration_images: int
    int8_layers: int
    float_bytes: int
    int8_bytes: int
    speeds: list[Speed]
    engines: Mapping[Backend, EngineCheck]


def quantize(config: QuantizeConfig) -> Quantized:
    """Write the int8 file and return its comparison with the float network in the same engine.

    If int8 loses more than `max_drop`, raise ValueError with both accuracies, and write no file.
    """
    config.check()
    if config.threads:
        torch.set_num_threads(config.threads)
    model = _open(config.checkpoint)
    labelled = config.measure == "accuracy"
    training, measured = labelled_splits(config.data, model) if labelled else unlabelled_splits(config.data)
    calibration = _load(draw_images(training, config.calibration_images), model, config)
    if len(calibration) < config.calibration_images:
        text = "calibrated on only %d %s of the %d requested"
        logger.warning(text, len(calibration), plural(len(calibration), "image"), config.calibration_images)
    reference = onnx_graph(fold(pad(model, CHANNEL_MULTIPLE)))
    int8 = int8_graph(reference, calibration, config.backend)
    content, int8_content = reference.SerializeToString(), int8.SerializeToString()
    comparison, sample = _compare(content, int8_content, measured, config=config, model=model)
    facts = ExportedFile(classes=model.classes, preprocess=model.preprocess, config=model.config, precision="int8")
    size, checks = _write(int8, facts, sample, config)
    contenders = _contenders(content, model, replace(facts, engines=checks), config)
    speeds = measure_speed(contenders, torch.cat(calibration[: config.batch_size]), rounds=config.rounds)
    return Quantized(
        comparison=comparison,
        calibration_images=len(calibration),
        int8_layers=len(int8_layers(int8)),
        float_bytes=len(content),
        int8_bytes=size,
        speeds=speeds,
        engines=checks,
    )


def _open(model: str) -> TrainedRexNet:
    trained = open_trained(resolve(model, allowed=QUANTIZABLE))
    if not isinstance(trained, TrainedRexNet):
        raise WeightsError(
            f"{model!r} holds a detector; only classifiers can be quantised; `rexnet export` exports detectors"
        )
    return trained


def _load(images: ImageSet, model: TrainedRexNet, config: QuantizeConfig) -> list[Tensor]:
    """Return single images, (1, 3, H, W) each."""
    batches = EvalBatches(images, model.preprocess, batch_size=1, bad_image=config.bad_image)
    if not (found := [batch.images for batch in batches]):
        raise ValueError("none of the calibration images can be read")
    return found


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Images (N, 3, H, W) for checking a file, their classes (N,), and the float network's predictions (N,)."""

    images: Tensor
    right: Tensor
    float_predicted: Tensor


def _compare(
    reference: bytes, int8: bytes, measured: ImageSet, *, config: QuantizeConfig, model: TrainedRexNet
) -> tuple[Comparison, _Sample]:
    """Compare both graphs. Raise ValueError if int8 loses too much accuracy."""
    engine = Engine(backend=config.backend, threads=config.threads)
    every, tried = ceil(len(measured) / TRIED_IMAGES), []

    def batches() -> Iterator[Batch]:
        seen = 0
        for batch in EvalBatches(measured, model.preprocess, batch_size=config.batch_size, bad_image=config.bad_image):
            tried.append(batch.images[-seen % every :: every])
            seen += len(batch.images)
            yield batch

    (before, after), targets = predicted_classes([open_graph(graph, engine) for graph in (reference, int8)], batches())
    right = before if config.measure == "agreement" else targets
    found = Comparison.of(before, after, right)
    if found.drop > config.max_drop:
        raise ValueError(
            f"int8 loses too much accuracy, and nothing was written: it predicts {found.int8_percent:.2f} % of "
            f"{found.images} "
            f"images correctly, and float32 {found.float_percent:.2f} %, a drop of {found.drop:.2f} points; --max-drop "
            f"allows {config.max_drop:g}"
        )
    return found, _Sample(images=torch.cat(tried), right=right[::every], float_predicted=before[::every])


def _write(
    graph: "onnx.ModelProto", facts: ExportedFile, sample: _Sample, config: QuantizeConfig
) -> tuple[int, dict[Backend, EngineCheck]]:
    """Write the file with its accuracy in each engine. Return the size in bytes, including weights in a second file,
    and the checks. If the file is wrong in its own engine, raise ValueError and write no file."""
    with made_aside(config.output) as inside:
        write_graph(graph, facts.to_dict(), inside)
        checks: dict[Backend, EngineCheck] = {
            name: _check_engine(facts, inside, name, sample, config) for name in FILE_BACKENDS[inside.suffix]
        }
        if inside.suffix == ".onnx" and is_installed("native", "fp32", int8=True):
            try:
                checks["native"] = _check_engine(facts, inside, "native", sample, config)
            except ValueError as error:  # a network that it does not compute
                logger.info("the native engine is skipped: %s", error)
        own = checks[config.backend]
        if not own.right:
            raise ValueError(
                f"int8 is wrong in {_ENGINE_NAMES[config.backend]}, and nothing was written: at batch 1 or "
                f"{config.batch_size} it predicts {own.percent:.2f} % of {len(sample.images)} images correctly, "
                f"float32 {own.float_percent:.2f} %"
            )
        for name, check in checks.items():
            if not check.right:
                text = (
                    "the file is wrong in %s, and rexnet will not run it there: it predicts %.2f %% of %d images "
                    "correctly, and float32 %.2f %%"
                )
                logger.warning(text, name, check.percent, len(sample.images), check.float_percent)
        write_graph(graph, replace(facts, engines=checks).to_dict(), inside)
        return sum(file.stat().st_size for file in inside.parent.iterdir()), checks


def _open_int8(
    facts: ExportedFile, path: str | Path, backend: Backend, config: QuantizeConfig, *, any_shape: bool = False
) -> Network:
    engine = Engine(backend=backend, threads=config.threads)
    return open_native(facts, path, engine) if backend == "native" else open_graph(path, engine, any_shape=any_shape)


def _check_engine(
    facts: ExportedFile, path: Path, backend: Backend, sample: _Sample, config: QuantizeConfig
) -> EngineCheck:
    """Compare a file with the float network at batch 1 and at a larger batch, opened as in `rexnet predict` and, in
    OpenVINO for an .xml file, also with dynamic shapes, as in other programs."""
    found = []
    for any_shape in {False, backend == "openvino" == config.backend}:
        network = _open_int8(facts, path, backend, config, any_shape=any_shape)
        for batch_size in {1, config.batch_size}:
            predicted = torch.cat([network(part).argmax(dim=1) for part in sample.images.split(batch_size)])
            found.append(Comparison.of(sample.float_predicted, predicted, sample.right))
    worst = max(found, key=lambda comparison: comparison.drop)
    right = worst.drop - worst.margin <= config.max_drop
    return EngineCheck(right=right, percent=worst.int8_percent, float_percent=worst.float_percent)


def _contenders(
    graph: bytes, model: TrainedRexNet, facts: ExportedFile, config: QuantizeConfig
) -> dict[Contender, Callable[[], Network]]:
    """Return functions that open the float network in the engine of the file, and in bf16 where an engine computes in
    it, and the file in the engines that it is made for."""
    own = Engine(backend=config.backend, threads=config.threads)
    bf16 = partial(Engine, precision="bf16", threads=config.threads)
    found: dict[Contender, Callable[[], Network]] = {
        Contender("fp32", config.backend): partial(open_graph, graph, own),
        Contender("bf16", "openvino"): partial(open_graph, graph, bf16(backend="openvino")),
    }
    if is_installed("native", "bf16"):
        found[Contender("bf16", "native")] = partial(open_network, model, bf16(backend="native"))
    for backend in facts.backends(Path(config.output).suffix):
        if backend in (config.backend, "native"):
            found[Contender("int8", backend)] = partial(_open_int8, facts, config.output, backend, config)
    return found


def measure_speed(contenders: Mapping[Contender, Callable[[], Network]], images: Tensor, *, rounds: int) -> list[Speed]:
    """Measure the speed for a batch of one and for a batch of all `images` (B, 3, H, W), each contender in a process of
    its own."""
    found = []
    for count in sorted({1, len(images)}):
        prepare = {each: partial(_open_call, opener, images[:count]) for each, opener in contenders.items()}
        measured = measure_apart(prepare, rounds=rounds, skip_failed=True)
        found.append(Speed(batch=count, ms={each: measured[each].times_ms for each in contenders if each in measured}))
    return found


def _open_call(opener: Callable[[], Network], images: Tensor) -> Callable[[], Tensor]:
    return partial(opener(), images)


def advice(speeds: Sequence[Speed]) -> str:
    """Return a sentence that says whether int8 is faster here than float32 and bf16, each in its fastest engine."""
    int8 = {speed.batch: speed.fastest("int8") for speed in speeds}
    rival = {speed.batch: speed.fastest("fp32", "bf16") for speed in speeds}
    slower = [speed for speed in speeds if speed.median_ms(int8[speed.batch]) >= speed.median_ms(rival[speed.batch])]
    shown = slower or speeds
    names = " and ".join(sorted({str(rival[speed.batch]) for speed in shown}))
    own = str(int8[shown[0].batch]) if len({int8[speed.batch] for speed in shown}) == 1 else "int8"
    figures = ", ".join(
        f"{speed.median_ms(int8[speed.batch]):.2f} against {speed.median_ms(rival[speed.batch]):.2f} ms at batch "
        f"{speed.batch}"
        for speed in shown
    )
    if not slower:
        return f"{own} is faster than {names} on this machine ({figures})"
    if len(slower) == len(speeds):
        return (
            f"{own} is slower than {names} on this machine ({figures}) and should not be used here; use {names} instead"
        )
    rest = " and ".join(str(speed.batch) for speed in speeds if speed not in slower)
    return f"{own} is slower than {names} on this machine ({figures}); use {names} there, and int8 at batch {rest}"
