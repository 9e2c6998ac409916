"""Latency, throughput and memory of networks in several engines, measured side by side."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rexnet.deploy.classifiers import open_exported, read_exported
from rexnet.deploy.config import BenchConfig
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.engines.backends import Network, explain_missing, is_installed, list_backends, open_network
from rexnet.engines.config import FILE_BACKENDS, INT8_PRECISIONS, PRECISIONS, Backend, Engine, Precision
from rexnet.engines.measuring import describe_machine, measure_apart, spread_of
from rexnet.errors import OptionError, WeightsError
from rexnet.figures import write_figure
from rexnet.files import write_whole
from rexnet.loading import load_network
from rexnet.models.cost import Cost, measure_cost
from rexnet.models.rexnet import RexNet
from rexnet.references import BENCHABLE, Reference, resolve

logger = logging.getLogger(__name__)

_COLOURS: dict[Backend, str] = {
    "torch": "#9467bd",
    "compile": "#8c564b",
    "onnxruntime": "#1f77b4",
    "openvino": "#d62728",
    "native": "#2ca02c",
}


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One network in one engine at one batch size."""

    model: str
    backend: Backend
    precision: Precision
    batch: int
    image_size_px: int
    parameters: int
    macs: int
    """Multiply-accumulates per image."""
    median_ms: float
    """Median time per call, as are the quartiles and p95."""
    quartiles_ms: tuple[float, float]
    p95_ms: float
    images_per_s: float
    """Throughput at the median latency."""
    peak_mib: float | None
    """Peak memory, libraries included, of a process that only runs the network."""

    @property
    def label(self) -> str:
        return f"{self.model} {self.backend} {self.precision}"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Network given by the user, not yet opened in an engine."""

    name: str
    model: nn.Module
    """Layers, for counting operations; for a graph file, those of its source network, with other weights."""
    image_size_px: int
    """Side of its input images in pixels."""
    open: Callable[[Engine], Network]
    backends: tuple[Backend, ...]
    """Engines that can run it."""
    pixels: bool = False
    """Takes uint8 (B, H, W, 3)."""
    int8: bool = False
    """True for an int8 file."""

    def images(self, batch: int, size_px: int) -> Tensor:
        """Return random images in the network's input format."""
        if self.pixels:
            return torch.randint(256, (batch, size_px, size_px, 3), dtype=torch.uint8)
        return torch.randn(batch, getattr(getattr(self.model, "config", None), "in_channels", 3), size_px, size_px)


def find_subject(name: str) -> Subject:
    """Return the network of MODEL `name`; a network given by its name has random weights, which do not affect the
    speed."""
    reference = resolve(name, allowed=BENCHABLE)
    if reference.kind == "exported":
        return _exported_subject(reference)
    model = load_network(reference)
    if isinstance(model, TrainedDetector):
        raise WeightsError(f"{name!r} holds a detector; allowed: classifiers and networks")
    return network_subject(model, name=name, image_size_px=model.preprocess.image_size_px)


def network_subject(model: nn.Module, *, name: str, image_size_px: int = 224) -> Subject:
    return Subject(
        name=name,
        model=model,
        image_size_px=image_size_px,
        open=lambda engine: open_network(model, engine),
        backends=list_backends(model),
    )


def _exported_subject(reference: Reference) -> Subject:
    facts = read_exported(reference.path)
    suffix = reference.path.suffix
    if suffix not in FILE_BACKENDS:
        raise WeightsError(
            f"{reference.text!r} cannot run in any of these engines; allowed: {', '.join(FILE_BACKENDS)}"
        )
    return Subject(
        name=reference.text,
        model=load_network(resolve(facts.config)) if isinstance(facts.config, str) else RexNet(facts.config),
        image_size_px=facts.preprocess.image_size_px,
        open=partial(open_exported, facts, reference.text),
        backends=facts.backends(suffix),
        pixels=facts.pixels,
        int8=facts.precision == "int8",
    )


def bench(config: BenchConfig) -> list[BenchRow]:
    """Measure every supported combination, write the rows and plot that `config` requests, and return the rows. Raise
    ValueError if no combination is supported."""
    config.check()
    found = measure_subjects([find_subject(name) for name in dict.fromkeys(config.models)], config)
    if config.output is not None:
        write_whole(config.output, bench_json(found, config))
    if config.plot is not None:
        draw_bench(found, config.plot)
    return found


def measure_subjects(subjects: Sequence[Subject], config: BenchConfig) -> list[BenchRow]:
    """Measure like `bench`, but `subjects` instead of `config.models`, and without writing files."""
    for sentence in _explain_skipped(config):
        logger.warning(sentence)
    configurations = [one for subject in subjects for one in _configurations(subject, config)]
    if not configurations:
        asked = f"{', '.join(config.backends)} in {' or '.join(config.precisions)}"
        raise OptionError(f"nothing can be measured: none of the networks can run with {asked}")
    return _measure(configurations, config)


def _explain_skipped(config: BenchConfig) -> list[str]:
    """Explain which engines do not run here in a wanted precision."""
    wanted = product(config.backends, config.precisions)
    reasons = [(name, explain_missing(name, each)) for name, each in wanted if each in PRECISIONS[name]]
    return list(dict.fromkeys(f"{name} is skipped: {reason}" for name, reason in reasons if reason))


@dataclass(frozen=True, kw_only=True)
class _Configuration:
    subject: Subject
    engine: Engine
    batch: int
    image_size_px: int
    cost: Cost
    """Multiply-accumulates per image."""


def _configurations(subject: Subject, config: BenchConfig) -> list[_Configuration]:
    size_px = config.image_size or subject.image_size_px
    cost = measure_cost(subject.model, size_px)
    precisions, found = INT8_PRECISIONS if subject.int8 else PRECISIONS, []
    for backend, precision in product(config.backends, config.precisions):
        if explain_missing(backend, precision):  # logged once for all networks
            continue
        supported = backend in subject.backends and precision in precisions[backend]
        if not supported or not is_installed(backend, precision, int8=subject.int8):
            logger.info("%s in %s on %s is not supported and is skipped", subject.name, precision, backend)
            continue
        engine = Engine(backend=backend, precision=precision, threads=config.threads)
        found += [
            _Configuration(subject=subject, engine=engine, batch=batch, image_size_px=size_px, cost=cost)
            for batch in config.batch
        ]
    return found


def _measure(configurations: list[_Configuration], config: BenchConfig) -> list[BenchRow]:
    """Measure the configurations; those with the same batch size take turns."""
    found = {}
    for batch in config.batch:
        mine = {index: one for index, one in enumerate(configurations) if one.batch == batch}
        logger.info("batch %d: %d networks and engines take turns", batch, len(mine))
        calls = {
            index: partial(_open_call, one.subject.name, one.engine, batch, one.image_size_px)
            for index, one in mine.items()
        }
        for index, measured in measure_apart(calls, rounds=config.rounds).items():
            if isinstance(measured, Exception):
                raise measured
            peak_mib = measured.peak_mib if config.memory else None
            found[index] = _row(mine[index], measured.times_ms, peak_mib=peak_mib)
    return [found[index] for index in sorted(found)]


def _open_call(name: str, engine: Engine, batch: int, image_size_px: int) -> Callable[[], object]:
    subject = find_subject(name)
    return partial(subject.open(engine), subject.images(batch, image_size_px))


def _row(one: _Configuration, times_ms: list[float], *, peak_mib: float | None) -> BenchRow:
    spread = spread_of(times_ms)
    return BenchRow(
        model=one.subject.name,
        backend=one.engine.backend,
        precision=one.engine.precision,
        batch=one.batch,
        image_size_px=one.image_size_px,
        parameters=one.cost.parameters,
        macs=one.cost.macs,
        images_per_s=1e3 * one.batch / spread.median_ms,
        peak_mib=peak_mib,
        **asdict(spread),
    )


def bench_json(rows: list[BenchRow], config: BenchConfig) -> str:
    """Round to the precision of the measurement."""
    content = {
        "machine": describe_machine(),
        "settings": asdict(config),
        "rows": [_rounded(asdict(row)) for row in rows],
    }
    return json.dumps(content, indent=2) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def draw_bench(rows: Sequence[BenchRow], path: str | PathLike[str]) -> list[Path]:
    """Plot images per second to `path` as .png and .svg: a panel per batch size, with whiskers between the
    quartiles."""
    from matplotlib.figure import Figure

    batches = sorted({row.batch for row in rows})
    bars = max(sum(row.batch == batch for row in rows) for batch in batches)
    figure = Figure(figsize=(6.4 * len(batches), 1.2 + 0.32 * bars), layout="constrained")
    for panel, batch in zip(figure.subplots(1, len(batches), squeeze=False).flat, batches, strict=True):
        shown = [row for row in rows if row.batch == batch]
        rates = [row.images_per_s for row in shown]
        quickest, slowest = ([1e3 * batch / row.quartiles_ms[end] for row in shown] for end in (0, 1))
        whiskers = [
            [rate - low for rate, low in zip(rates, slowest, strict=True)],
            [high - rate for rate, high in zip(rates, quickest, strict=True)],
        ]
        colours = [_COLOURS[row.backend] for row in shown]
        panel.barh(range(len(shown)), rates, xerr=whiskers, color=colours, alpha=0.85, ecolor="#333333")
        panel.set_yticks(range(len(shown)), [row.label for row in shown], fontsize=8)
        panel.invert_yaxis()
        panel.set_xlabel("images per second (whiskers: quartiles)")
        panel.set_title(f"batch {batch}", fontsize=10)
        panel.grid(axis="x", alpha=0.25)
    path = Path(path)
    return write_figure(figure, path.with_suffix("") if path.suffix in (".png", ".svg") else path)
