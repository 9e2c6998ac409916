"""Latency, throughput and memory of networks in several engines, measured side by side."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Annotated, Any

import tyro

from rexnet.deploy.bench_figure import draw_bench
from rexnet.deploy.bench_subjects import Subject, find_subject
from rexnet.engines.backends import PRECISIONS, Backend, Engine, Network, Precision
from rexnet.engines.machine import describe_machine, peak_mib_of_process
from rexnet.engines.timing import interleaved_ms, spread_of
from rexnet.errors import OptionError, require
from rexnet.files import check_output_file, write_whole
from rexnet.models.cost import Cost, measure_cost

logger = logging.getLogger(__name__)

CALLS_PER_TURN = 3


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measures how fast networks run on this machine, in each engine."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL ...]")] = ("rexnet_100",)
    """Names of `rexnet models` and timm/NAME (random weights), run folders, checkpoints, published weights, folders of
    `rexnet card`, or exported .onnx and .xml files."""
    backends: tuple[Backend, ...] = ("torch", "onnxruntime", "openvino")
    """Engines; compile is torch.compile, which takes minutes to start."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """What to compute in; an engine is left out of those it does not have."""
    batch: tuple[int, ...] = (1, 16)
    """Images a call."""
    image_size: int | None = None
    """Side of the images in pixels; None: what each network is meant for."""
    threads: int | None = None
    """CPU threads, the same for every engine; None leaves its choice."""
    rounds: int = 15
    """Turns of each; a turn is three calls, after one that is not counted."""
    memory: bool = True
    """Also start each in a process of its own, for its peak memory; some seconds each."""
    output: str | None = None
    """Write what was measured, the machine and its versions to this JSON file."""
    plot: str | None = None
    """Draw images a second to this name, with the ending .png and with .svg."""

    def __post_init__(self) -> None:
        for name in ("models", "backends", "precisions", "batch"):
            require(bool(getattr(self, name)), name, "empty", "one or more")
        require(all(batch >= 1 for batch in self.batch), "batch", self.batch, "1 or more")
        holds = self.image_size is None or self.image_size >= 1
        require(holds, "image_size", self.image_size, "1 or more, or None")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or None")
        require(self.rounds >= 1, "rounds", self.rounds, "1 or more")


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One network in one engine with one size of batch."""

    model: str
    backend: Backend
    precision: Precision
    batch: int
    image_size_px: int
    parameters: int
    macs: int
    """Of one image."""
    median_ms: float
    """Of a call; so are the others."""
    quartiles_ms: tuple[float, float]
    p95_ms: float
    images_per_s: float
    """At the median."""
    peak_mib: float | None
    """The most memory of a process that does nothing else, libraries included."""

    @property
    def label(self) -> str:
        return f"{self.model} {self.backend} {self.precision}"


def bench(config: BenchConfig) -> list[BenchRow]:
    """A row for each combination that exists, written as `config` says. ValueError if none does."""
    for option, path in (("--output", config.output), ("--plot", config.plot)):
        if path is not None:
            check_output_file(path, option=option)
    found = measure_subjects([find_subject(name) for name in dict.fromkeys(config.models)], config)
    if config.output is not None:
        write_whole(config.output, bench_json(found, config))
    if config.plot is not None:
        draw_bench(found, config.plot)
    return found


def measure_subjects(subjects: Sequence[Subject], config: BenchConfig) -> list[BenchRow]:
    """`bench` of these networks in place of `config.models`; nothing is written."""
    configurations = [one for subject in subjects for one in _configurations(subject, config)]
    if not configurations:
        asked = f"{', '.join(config.backends)} in {' or '.join(config.precisions)}"
        raise OptionError(f"nothing can be measured: none of the networks runs with {asked}")
    return _measure(configurations, config)


@dataclass(frozen=True, kw_only=True)
class _Configuration:
    subject: Subject
    engine: Engine
    batch: int
    image_size_px: int
    cost: Cost
    """Of one image."""


def _configurations(subject: Subject, config: BenchConfig) -> list[_Configuration]:
    size_px = config.image_size or subject.image_size_px
    cost = measure_cost(subject.model, size_px)
    found = []
    for backend, precision in product(config.backends, config.precisions):
        if backend not in subject.backends or precision not in PRECISIONS[backend]:
            logger.info("%s in %s on %s does not exist and is left out", subject.name, precision, backend)
            continue
        engine = Engine(backend=backend, precision=precision, threads=config.threads)
        found += [
            _Configuration(subject=subject, engine=engine, batch=batch, image_size_px=size_px, cost=cost)
            for batch in config.batch
        ]
    return found


def _measure(configurations: list[_Configuration], config: BenchConfig) -> list[BenchRow]:
    """Those of the same batch take turns with one another."""
    networks: dict[tuple[str, Engine], Network] = {}
    found = {}
    for batch in config.batch:
        mine = {index: one for index, one in enumerate(configurations) if one.batch == batch}
        calls = {}
        for index, one in mine.items():
            key = (one.subject.name, one.engine)
            if key not in networks:
                networks[key] = one.subject.open(one.engine)
            calls[index] = partial(networks[key], one.subject.images(one.batch, one.image_size_px))
        logger.info("batch %d: %d networks and engines take turns", batch, len(mine))
        times = interleaved_ms(calls, rounds=config.rounds, warm_up=1, calls_per_turn=CALLS_PER_TURN)
        for index, one in mine.items():
            found[index] = _row(one, times[index], peak_mib=_peak_mib(one) if config.memory else None)
    return [found[index] for index in sorted(found)]


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


def _peak_mib(one: _Configuration) -> float | None:
    return peak_mib_of_process(_call, one.subject.name, one.engine, one.batch, one.image_size_px)


def _call(name: str, engine: Engine, batch: int, image_size_px: int) -> Callable[[], object]:
    subject = find_subject(name)
    return partial(subject.open(engine), subject.images(batch, image_size_px))


def bench_json(rows: list[BenchRow], config: BenchConfig) -> str:
    """Rounded to what can be measured."""
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
