"""Choice of the fastest engine on this machine, measured once and remembered in the user's cache folder."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from rexnet._version import __version__
from rexnet.data.image_stream import in_order
from rexnet.deploy.classifiers import Classifier
from rexnet.engines.backends import Network, explain_missing, is_installed
from rexnet.engines.config import INT8_PRECISIONS, PRECISIONS, Backend, Engine, Precision
from rexnet.engines.measuring import engine_versions, interleaved_ms, measure_apart, processor_name
from rexnet.files import write_whole
from rexnet.processes import usable_cpus
from rexnet.text import quantity, reason_of

logger = logging.getLogger(__name__)

CHUNKS = (1, 4, 8)
"""Batch sizes to measure."""
_AGREE = 1e-3
"""Maximum difference of an fp32 engine's probabilities from the first engine's; rounding causes a thousandth of it."""
_BUSY = 0.7
"""Load per CPU above which other programs distort a measurement."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Chosen engine and batch size."""

    backend: Backend
    precision: Precision
    chunk: int
    """Images per call for many images, each call on one thread."""
    ms_per_image: dict[str, float]
    """Milliseconds per image: by engine, for one image on all threads, and by images per call, for many images at
    once."""

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}, {quantity(self.chunk, 'image')} per call"


def choose(
    classifier: Classifier,
    *,
    backend: Backend | Literal["auto"],
    precision: Precision | Literal["auto"],
    threads: int | None,
    measure: bool = True,
) -> Choice:
    """Return the fastest of the given engines on the CPU, and its best batch size; without `measure`, the first that is
    installed, unless a choice is cached.

    Precision "auto" is the classifier's, fp32 for a checkpoint: no sample can show whether bf16 keeps the predictions
    for future images. OpenVINO and the native engine are also measured and logged in bf16. Raise ValueError if no
    engine can open the classifier.
    """
    wanted = classifier.precision if precision == "auto" else precision
    others = ("openvino", "native") if precision == "auto" else ()
    engines = _candidates(classifier, backend=backend, wanted=wanted, all_precisions_of=others, threads=threads)
    if all(engine.precision != wanted for engine in engines):
        names = ", ".join(dict.fromkeys(engine.backend for engine in engines)) or ", ".join(classifier.backends)
        raise ValueError(f"precision is {wanted}, in which {names} cannot run this file; allowed: auto")
    workers = threads or usable_cpus()
    key = _key(classifier, engines, workers=workers)
    file = cache_folder() / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"
    choice = _remembered(file, key, measure=measure)
    if choice is None and not measure:
        return _unmeasured(engines, wanted)
    if choice is None:
        if backend == "auto":
            for name in classifier.backends:
                if reason := explain_missing(name, "fp32", int8=classifier.int8):
                    logger.info("%s is skipped: %s", name, reason)
        load = machine_load()
        choice = _measured(classifier, engines, wanted=wanted, workers=workers)
        if len(engines) > 1 and choice.ms_per_image.keys().isdisjoint(map(str, engines)):
            logger.info("the engines cannot be measured in separate processes: %s", choice)
            return choice
        _remember(file, {"key": key, "load": round(load, 2), "choice": asdict(choice)})
        logger.info("engine, measured now: %s", choice)
    return choice


def cache_folder() -> Path:
    """Return the cache folder of the choices, which has a file per choice and may be deleted at any time."""
    return Path.home() / ".cache" / "rexnet" / "engines"


def _candidates(
    classifier: Classifier,
    *,
    backend: Backend | Literal["auto"],
    wanted: Precision,
    all_precisions_of: Sequence[Backend],
    threads: int | None,
) -> list[Engine]:
    if backend != "auto":
        return [Engine(backend=backend, precision=wanted, threads=threads)]
    precisions = INT8_PRECISIONS if classifier.int8 else PRECISIONS
    # A compiled network takes up to a minute to start in every process, which the latency does not include.
    engines = [
        Engine(backend=name, precision=each, threads=threads)
        for name in classifier.backends
        for each in precisions[name]
        if name != "compile" and (each == wanted or name in all_precisions_of)
    ]
    # If none is installed, opening the first raises the error that says what to install.
    int8 = classifier.int8
    return [engine for engine in engines if is_installed(engine.backend, engine.precision, int8=int8)] or engines


def _key(classifier: Classifier, engines: Sequence[Engine], *, workers: int) -> dict[str, Any]:
    """Return everything that a choice depends on."""
    config = classifier.config
    config = config if isinstance(config, str) else json.dumps(config.to_dict(), sort_keys=True)
    return {
        "cpu": processor_name(),
        "threads": workers,
        "versions": {"rexnet": __version__, "torch": str(torch.__version__), **engine_versions()},
        "network": hashlib.sha256(config.encode()).hexdigest(),
        "file": classifier.kind,
        "image": list(classifier.image_shape),
        "engines": [asdict(engine) for engine in engines],
    }


def machine_load() -> float:
    """Return the load per CPU over the last minute; 0 if the system does not report it."""
    return os.getloadavg()[0] / usable_cpus() if hasattr(os, "getloadavg") else 0.0


def _remembered(file: Path, key: dict[str, Any], *, measure: bool) -> Choice | None:
    """Return the cached choice. Return None if it is missing, damaged or, with `measure`, was made on a machine that
    was busy and no longer is: other programs slow engines down by different factors."""
    try:
        content = json.loads(file.read_text("utf-8"))
        choice = Choice(**content["choice"])
        known = any((choice.backend, choice.precision) == (e["backend"], e["precision"]) for e in key["engines"])
        if content["key"] != key or not known or choice.chunk not in CHUNKS:
            raise ValueError("it is for another network, machine or version")
        sum(choice.ms_per_image.values())  # TypeError for values that are not numbers
        if measure and content.get("load", _BUSY + 1) > _BUSY >= machine_load():
            logger.info("the engines were measured on a busy machine; measuring again")
            return None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        then = "measuring again" if measure else "it is ignored"
        logger.warning("%s cannot be used (%s); %s", file, reason_of(error), then)
        return None
    return choice


def _remember(file: Path, content: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        logger.warning("the choice cannot be saved in %s (%s); the next start measures again", file, error)


def _unmeasured(engines: Sequence[Engine], wanted: Precision) -> Choice:
    exact = [engine for engine in engines if engine.precision == wanted]
    versions = engine_versions()
    first = next((engine for engine in exact if versions.get(engine.backend, engine.backend)), exact[0])
    logger.info("engine: %s, not measured for so few images; --backend selects another", first)
    return Choice(backend=first.backend, precision=first.precision, chunk=CHUNKS[-1], ms_per_image={})


def _measured(classifier: Classifier, engines: Sequence[Engine], *, wanted: Precision, workers: int) -> Choice:
    found = _times(classifier, engines) if len(engines) > 1 else {}
    exact = [engine for engine in engines if engine.precision == wanted]
    # If none could be measured, open the first, or raise its error, in this process.
    fastest = min((engine for engine in exact if engine in found), key=found.__getitem__, default=exact[0])
    many = classifier.open(stream_engine(fastest, workers), device=torch.device("cpu"))
    batches = {chunk: classifier.sample(chunk) for chunk in CHUNKS}
    calls = {chunk: partial(_at_once, many, batch, workers) for chunk, batch in batches.items()}
    by_chunk = {chunk: median(times) / (chunk * workers) for chunk, times in interleaved_ms(calls, rounds=3).items()}
    figures = {str(engine): ms for engine, ms in found.items()} | {f"{c} a call": ms for c, ms in by_chunk.items()}
    return Choice(
        backend=fastest.backend,
        precision=fastest.precision,
        chunk=min(CHUNKS, key=by_chunk.__getitem__),
        ms_per_image={name: round(ms, 3) for name, ms in figures.items()},
    )


def stream_engine(engine: Engine, workers: int) -> Engine:
    """Return the same engine for many images, with one call per thread."""
    return Engine(backend=engine.backend, precision=engine.precision, threads=workers, calls=workers)


def _times(classifier: Classifier, engines: Sequence[Engine]) -> dict[Engine, float]:
    """Return the milliseconds for one image in each engine that opens and agrees with the first that opens."""
    calls = {engine: partial(_open_one, classifier, engine) for engine in engines}
    found = measure_apart(calls, rounds=2, skip_failed=True)
    times: dict[Engine, float] = {}
    for engine, measured in found.items():
        reference = next(iter(found))
        try:
            check_agreement(classifier, {reference: found[reference].result, engine: measured.result})
            times[engine] = median(measured.times_ms)
        except ValueError as error:
            logger.info("%s is skipped: %s", engine, error)
    return times


def _open_one(classifier: Classifier, engine: Engine) -> Callable[[], Tensor]:
    return partial(classifier.open(engine, device=torch.device("cpu")), classifier.sample(1))


def check_agreement(classifier: Classifier, logits: dict[Engine, Tensor]) -> None:
    """Raise ValueError if the last engine is exact and its probabilities differ from the first engine's; `logits` are
    those of one image, by engine."""
    reference, engine = next(iter(logits)), next(reversed(logits))
    difference = float((logits[engine].softmax(dim=1) - logits[reference].softmax(dim=1)).abs().max())
    if classifier.is_exact(engine) and not difference <= _AGREE:  # also not a number
        raise ValueError(
            f"probabilities of {engine} differ by {difference:.2g} from those of {reference}; allowed: {_AGREE:g}"
        )


def _at_once(network: Network, images: Tensor, workers: int) -> None:
    for _ in in_order(network, [images] * workers, threads=workers, ahead=workers):
        pass
