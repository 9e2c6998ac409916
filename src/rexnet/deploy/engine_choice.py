"""Which engine is fastest on this machine: measured once, then remembered in the user's cache folder."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from rexnet._version import __version__
from rexnet.data.image_stream import in_order
from rexnet.deploy.classifier_files import Classifier
from rexnet.engines.backends import Network
from rexnet.engines.config import PRECISIONS, Backend, Engine, Precision
from rexnet.engines.machine import engine_versions, processor_name
from rexnet.engines.timing import interleaved_ms
from rexnet.files import write_whole
from rexnet.processes import usable_cpus
from rexnet.text import plural, reason_of

logger = logging.getLogger(__name__)

CHUNKS = (1, 4, 8)
"""Images a call that are measured."""
_AGREE = 1e-3
"""Most that a probability of an fp32 engine may differ from those of the first one, which is PyTorch for a checkpoint;
rounding makes a thousandth of that."""
_FAR = 3
"""Times the fastest engine's time."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An engine and how it is used."""

    backend: Backend
    precision: Precision
    chunk: int
    """Images a call where there are many, each call on one thread."""
    ms_per_image: dict[str, float]
    """What was measured: engine -> one image on all threads; images a call -> many at once."""

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {ms:.2f}" for name, ms in self.ms_per_image.items())
        calls = f"{self.chunk} {plural(self.chunk, 'image')} a call"
        return f"{self.backend} {self.precision}, {calls} (ms an image: {figures})"


def choose(
    classifier: Classifier,
    *,
    backend: Backend | Literal["auto"],
    precision: Precision | Literal["auto"],
    threads: int | None,
) -> Choice:
    """The fastest engine on the CPU among those asked for, and its best number of images a call.

    With precision "auto" it is one that computes as the classifier was made, which for a checkpoint is fp32: no
    sample tells whether bf16 keeps the answers on the images to come. OpenVINO's bf16 is measured and told beside it.
    ValueError where no engine can open the classifier.
    """
    engines = _candidates(classifier, backend=backend, precision=precision, threads=threads)
    workers = threads or usable_cpus()
    key = _key(classifier, engines, workers=workers)
    file = cache_folder() / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"
    choice = _remembered(file, key)
    if choice is None:
        wanted = classifier.precision if precision == "auto" else precision
        choice = _measured(classifier, engines, wanted=wanted, workers=workers)
        _remember(file, key, choice)
        logger.info("engine, measured now: %s", choice)
    else:
        logger.info("engine, measured before: %s", choice)
    return choice


def cache_folder() -> Path:
    """Where choices are remembered, one file each; what is there may be deleted at any time."""
    return Path.home() / ".cache" / "rexnet" / "engines"


def _candidates(
    classifier: Classifier,
    *,
    backend: Backend | Literal["auto"],
    precision: Precision | Literal["auto"],
    threads: int | None,
) -> list[Engine]:
    if backend != "auto":
        chosen = classifier.precision if precision == "auto" else precision
        return [Engine(backend=backend, precision=chosen, threads=threads)]
    asked = classifier.precision if precision == "auto" else precision
    # A compiled network takes up to a minute to start in every process, which no figure of a single image shows.
    return [
        Engine(backend=name, precision=each, threads=threads)
        for name in classifier.backends
        for each in PRECISIONS[name]
        if name != "compile" and (each == asked or (precision == "auto" and name == "openvino"))
    ]


def _key(classifier: Classifier, engines: Sequence[Engine], *, workers: int) -> dict[str, Any]:
    """Everything that a choice depends on."""
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


def _remembered(file: Path, key: dict[str, Any]) -> Choice | None:
    try:
        content = json.loads(file.read_text("utf-8"))
        choice = Choice(**content["choice"])
        known = any((choice.backend, choice.precision) == (e["backend"], e["precision"]) for e in key["engines"])
        if content["key"] != key or not known or choice.chunk not in CHUNKS:
            raise ValueError("it is about something else")
        str(choice)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be used (%s); measuring again", file, reason_of(error))
        return None
    return choice


def _remember(file: Path, key: dict[str, Any], choice: Choice) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"key": key, "choice": asdict(choice)}, indent=2) + "\n")
    except OSError as error:
        logger.warning("the choice cannot be remembered in %s (%s); the next start measures again", file, error)


def _measured(classifier: Classifier, engines: Sequence[Engine], *, wanted: Precision, workers: int) -> Choice:
    image = classifier.sample(1)
    networks = _opened(classifier, engines, image, wanted=wanted)
    found = _times({_name(engine): partial(network, image) for engine, network in networks})
    fastest = min((e for e, _ in networks if e.precision == wanted), key=lambda e: found[_name(e)])
    # The networks of the others would take memory and threads from what is measured next.
    networks.clear()
    many = classifier.open(stream_engine(fastest, workers), torch.device("cpu"))
    batches = {chunk: classifier.sample(chunk) for chunk in CHUNKS}
    calls = {f"{chunk} a call": partial(_at_once, many, batch, workers) for chunk, batch in batches.items()}
    together = _medians(calls, rounds=3)
    by_chunk = {chunk: together[f"{chunk} a call"] / (chunk * workers) for chunk in CHUNKS}
    found |= {f"{chunk} a call": ms for chunk, ms in by_chunk.items()}
    return Choice(
        backend=fastest.backend,
        precision=fastest.precision,
        chunk=min(CHUNKS, key=by_chunk.__getitem__),
        ms_per_image={name: round(ms, 3) for name, ms in found.items()},
    )


def stream_engine(engine: Engine, workers: int) -> Engine:
    """The same engine for many images: a call on each thread."""
    return Engine(backend=engine.backend, precision=engine.precision, threads=workers, calls=workers)


def _opened(
    classifier: Classifier, engines: Sequence[Engine], image: Tensor, *, wanted: Precision
) -> list[tuple[Engine, Network]]:
    """Those that open and agree. Raises the last error where none of the wanted precision does."""
    networks: list[tuple[Engine, Network]] = []
    right: Tensor | None = None
    failure: Exception | None = None
    for engine in engines:
        try:
            network = classifier.open(engine, torch.device("cpu"))
            answer = network(image).softmax(dim=1)
            right = answer if right is None else right
            difference = float((answer - right).abs().max())
            if engine.precision == "fp32" and not classifier.int8 and difference > _AGREE:
                raise ValueError(f"its probabilities differ by {difference:.2g} from those of {_name(networks[0][0])}")
            networks.append((engine, network))
        except Exception as error:  # engines raise whatever they like, and another one may do
            logger.info("%s is left out: %s", _name(engine), " ".join(str(error).split())[:200])
            failure = error
    if failure is not None and not any(engine.precision == wanted for engine, _ in networks):
        raise failure
    return networks


def _times(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each; those far behind are not asked again."""
    found = _medians(calls, rounds=1)
    near = {name: call for name, call in calls.items() if found[name] < _FAR * min(found.values())}
    return {**found, **_medians(near, rounds=5)}


def _medians(calls: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    return {name: median(times) for name, times in interleaved_ms(calls, rounds=rounds).items()}


def _at_once(network: Network, images: Tensor, workers: int) -> None:
    for _ in in_order(network, [images] * workers, threads=workers, ahead=workers):
        pass


def _name(engine: Engine) -> str:
    return f"{engine.backend} {engine.precision}"
