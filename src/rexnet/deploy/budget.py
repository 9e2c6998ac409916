"""Width for a latency budget: the widest network that is fast enough on this machine."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from rexnet.deploy.config import BudgetConfig
from rexnet.deploy.width_search import Candidate, Limits, Measure, Measured, Search
from rexnet.engines.backends import is_installed, open_network
from rexnet.engines.config import Backend, Engine
from rexnet.engines.measuring import interleaved_ms, measure_apart, spread_of
from rexnet.models.factory import create_model

logger = logging.getLogger(__name__)

SIZES_PX = (224, 192, 160)
"""Default image sizes to try; the published networks use the first."""
_AUTOMATIC: tuple[Backend, ...] = ("native", "openvino", "onnxruntime", "torch")


@dataclass(frozen=True, kw_only=True)
class BudgetFit:
    """Chosen network, and all measurements of the search."""

    chosen: Candidate
    others: tuple[Candidate, ...]
    """Widest networks at other image sizes."""
    candidates: tuple[Candidate, ...]
    """All measured networks, in order."""
    engine: str
    contradictions: tuple[tuple[Candidate, Candidate], ...] = ()
    """Pairs of a network and a wider one that was faster, even when measured again."""

    @property
    def doubt(self) -> str | None:
        """Return a warning if measurements contradict each other, else None."""
        if not self.contradictions:
            return None
        narrow, wide = self.contradictions[0]
        faster = f"{wide.model} was faster than {narrow.model} at {wide.image_size_px} px in two measurements"
        times = f"{wide.measured.latency_ms:.2f} against {narrow.measured.latency_ms:.2f} ms"
        return f"{faster} ({times}): other programs are using the machine; run this again when it is idle"

    @property
    def train_command(self) -> str:
        return f"rexnet train DATA --model {self.chosen.model} --image-size {self.chosen.image_size_px}"


def fit_budget(config: BudgetConfig, measure: Measure | None = None) -> BudgetFit:
    """Return the widest network within the limits, at the largest image size at which a network fits.

    `measure` replaces measurements on this machine. Raise ValueError, with the smallest network's cost, if no network
    fits.
    """
    engine = "given" if measure else None
    if measure is None:
        chosen_engine = _engine(config)
        engine = str(chosen_engine)
        measure = partial(_measure, config=config, engine=chosen_engine)
    search = Search(
        family=config.family,
        limits=Limits(latency_ms=config.latency_ms, memory_mib=config.memory_mb),
        measure=measure,
        stem_stride=config.stem_stride,
        num_classes=config.num_classes,
        candidates=[],
    )
    sizes = (config.size,) if config.size else SIZES_PX
    found = [best for size_px in sizes if (best := search.widest(size_px))]
    assert engine is not None
    if not found:
        raise ValueError(_impossible(search, engine))
    return BudgetFit(
        chosen=found[0],
        others=tuple(found[1:]),
        candidates=tuple(search.candidates),
        engine=engine,
        contradictions=tuple(pair for size_px in sizes for pair in search.contradictions(size_px)),
    )


def _impossible(search: Search, engine: str) -> str:
    smallest = min(search.candidates, key=lambda each: (each.macs, each.measured.latency_ms))
    limits, measured = search.limits, smallest.measured
    asked = f"{limits.latency_ms:g} ms" + (f" and {limits.memory_mib:g} MiB" if limits.memory_mib else "")
    takes = f"{measured.latency_ms:.2f} ms" + (f" and {measured.peak_mib:.0f} MiB" if limits.memory_mib else "")
    at = f"{smallest.image_size_px} px ({engine})"
    return f"no {search.family} stays within {asked} here: {smallest.model}, the smallest, takes {takes} at {at}"


def _engine(config: BudgetConfig) -> Engine:
    if config.backend != "auto":
        return Engine(backend=config.backend, precision=config.precision, threads=config.threads)
    engines = [
        Engine(backend=backend, precision=config.precision, threads=config.threads)
        for backend in _AUTOMATIC
        if is_installed(backend, config.precision)
    ]
    size_px = config.size or SIZES_PX[0]
    calls = {engine: partial(_call, f"{config.family}_100", size_px, config, engine) for engine in engines}
    found = measure_apart(calls, rounds=5, skip_failed=True)
    fastest = min(found, key=lambda engine: spread_of(found[engine].times_ms).median_ms, default=engines[-1])
    logger.info("%s is the fastest engine here in %s", fastest.backend, fastest.precision)
    return fastest


def _call(name: str, image_size_px: int, config: BudgetConfig, engine: Engine) -> Callable[[], object]:
    model = create_model(name, stem_stride=config.stem_stride, num_classes=config.num_classes)
    return partial(open_network(model, engine), torch.randn(config.batch, 3, image_size_px, image_size_px))


def _measure(name: str, image_size_px: int, *, config: BudgetConfig, engine: Engine) -> Measured:
    prepare = partial(_call, name, image_size_px, config, engine)
    median_ms = spread_of(interleaved_ms({name: prepare()}, rounds=config.rounds, warm_up=5)[name]).median_ms
    peak_mib = None
    if config.memory_mb is not None:
        peak_mib = measure_apart({name: prepare}, rounds=1)[name].peak_mib
    logger.info("%s at %d px: %.2f ms", name, image_size_px, median_ms)
    return Measured(latency_ms=median_ms, peak_mib=peak_mib)
