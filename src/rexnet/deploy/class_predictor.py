"""Classification of images into class names with probabilities."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from rexnet.data.decode import BadImagePolicy
from rexnet.data.image_stream import Images, ImageSource, each_image, image_reader, in_chunks, in_order
from rexnet.deploy.classifiers import Classifier
from rexnet.deploy.engine_choice import CHUNKS, check_agreement, choose, stream_engine
from rexnet.engines.backends import Network
from rexnet.engines.config import CPU_BACKENDS, Backend, Engine, Precision
from rexnet.errors import BadImageError, MissingPackageError
from rexnet.processes import usable_cpus
from rexnet.training.distributed import choose_device

_ACCELERATOR_CHUNK = 32


@dataclass(frozen=True, kw_only=True)
class ScoredClass:
    """A class name and its probability, 0 to 1."""

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Most probable classes of one image, most probable first, or the reason why the image could not be read."""

    image: str
    """Path as given; "" for images without a path."""
    classes: tuple[ScoredClass, ...] = ()
    error: str | None = None

    @property
    def best(self) -> ScoredClass:
        """Return the most probable class. Raise ValueError for an image that could not be read."""
        if not self.classes:
            raise ValueError(f"there is no prediction for {self.image}: {self.error}")
        return self.classes[0]


Read = tuple[str, Tensor | BadImageError]
"""Path of an image and its input tensor."""


class ClassPredictor:
    """Trained classifier in an engine, with its class names and preprocessing.

    Thread-safe. An image's prediction does not depend on the rest of the batch, except for rounding.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        backend: Backend | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        threads: int | None = None,
        device: str = "auto",
        measure: bool = True,
    ):
        """Open the classifier; arguments and errors are those of `rexnet.Predictor`."""
        self._classifier = classifier
        self.classes, self.preprocess = self._classifier.classes, self._classifier.preprocess
        on_cpu = "torch" not in self._classifier.backends or backend in CPU_BACKENDS
        self.device = choose_device("cpu" if device == "auto" and on_cpu else device)
        self._workers = threads or usable_cpus()
        asked = backend
        self._chunk: int | None = _ACCELERATOR_CHUNK if self.device.type != "cpu" else None
        if backend == "auto" and self.device.type == "cpu":
            choice = choose(self._classifier, backend=backend, precision=precision, threads=threads, measure=measure)
            backend, precision, self._chunk = choice.backend, choice.precision, choice.chunk
        self.engine = Engine(
            backend="torch" if backend == "auto" else backend,
            precision=self._classifier.precision if precision == "auto" else precision,
            threads=threads,
        )
        self._one = self._classifier.open(self.engine, device=self.device)
        self._many: Network | None = None
        self._opening = threading.Lock()
        if backend == "compile":
            self._check_compiler()
        if self.device.type == "cpu" and self.engine.backend == asked:
            self._check_engine()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape of a result of `prepare`."""
        return self._classifier.image_shape

    @property
    def calls_at_once(self) -> int:
        """Return the best number of concurrent calls of `probabilities`."""
        return 1 if self._one_call_at_a_time else self._workers

    def sample(self, count: int) -> Tensor:
        """Return a batch of `count` prepared noise images, always the same."""
        return self._classifier.sample(count)

    def probabilities(self, images: Tensor, *, alone: bool = True) -> Tensor:
        """Return the softmax over the classes, float32 (B, K) on the CPU, for a batch of results of `prepare`.

        If not `alone`, other calls run at the same time, and this one uses only its part of the threads. Raise
        ValueError for anything but a batch, and for a network whose output is not finite.
        """
        if not isinstance(images, Tensor) or images.ndim != 4:
            got = tuple(images.shape) if isinstance(images, Tensor) else f"of the type {type(images).__name__}"
            raise ValueError(f"the images are {got}; allowed: a batch of results of prepare, as torch.stack makes it")
        return _probabilities(self._one if alone or self._one_call_at_a_time else self._for_many(), images)

    def prepare(self, image: Image.Image) -> Tensor:
        """Convert an upright RGB image to the network's input: normalised float32 (3, S, S) or, for a file that
        normalises its input, uint8 (S, S, 3)."""
        if self._classifier.pixels:
            return torch.from_numpy(self.preprocess.pixels(image).copy())
        return self.preprocess(image)

    def __call__(self, images: Images, *, top_k: int = 5) -> list[Prediction]:
        """Return predictions in order, for one or many images: paths, encoded bytes, Pillow images, uint8 arrays (H, W,
        3) or (B, H, W, 3) and uint8 tensors (3, H, W) or (B, 3, H, W), red, green, blue; `probabilities` takes
        preprocessed ones.

        Raise BadImageError for a file that cannot be read, ValueError for any other input.
        """
        return list(self.stream(images, top_k=top_k))

    def stream(self, images: Images, *, top_k: int = 5, bad_image: BadImagePolicy = "error") -> Iterator[Prediction]:
        """Yield the results of a call, for any number of images in constant memory; images are read a few dozen ahead.
        With bad_image "skip", an unreadable image yields its error."""
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; allowed: 1 or more")
        sources = each_image(images)
        read = image_reader(self.prepare, bad_image)
        named = partial(self._named, top_k=top_k)
        first = list(islice(sources, 2))
        sources = chain(first, sources)
        if len(first) < 2:
            yield from named([read(source) for source in sources], self._one, size=1)
        elif self._one_call_at_a_time:
            size = self._chunk or CHUNKS[-1]
            ahead = in_order(read, sources, threads=self._workers, ahead=2 * size)
            for part in in_chunks(ahead, size):
                yield from named(part, self._one, size=size)
        else:
            network = self._for_many()
            size, sources = self._fitting(sources)

            def work(part: list[ImageSource]) -> list[Prediction]:
                return named([read(source) for source in part], network, size=size)

            # Every thread reads and predicts its own images, so that none waits for another.
            for found in in_order(work, in_chunks(sources, size), threads=self._workers, ahead=self._workers + 1):
                yield from found

    @property
    def _one_call_at_a_time(self) -> bool:
        """Return whether each call uses the whole device, as compiled code uses the whole CPU, while threads read
        ahead."""
        return self.device.type != "cpu" or self.engine.backend == "compile"

    def _for_many(self) -> Network:
        """Return the network opened for many images, with one call per thread."""
        with self._opening:
            if self._many is None:
                engine = stream_engine(self.engine, self._workers)
                self._many = self._one if self._workers == 1 else self._classifier.open(engine, device=self.device)
            return self._many

    def _fitting(self, sources: Iterable[ImageSource]) -> tuple[int, Iterable[ImageSource]]:
        """Return the number of images per call, reduced if threads would otherwise be idle, and the sources."""
        remaining = iter(sources)
        enough = self._workers * CHUNKS[-1]
        first = list(islice(remaining, enough))
        if self._chunk is None and len(first) == enough:
            engine = self.engine
            choice = choose(
                self._classifier, backend=engine.backend, precision=engine.precision, threads=engine.threads
            )
            self._chunk = choice.chunk
        most = min(len(first) // self._workers, self._chunk or CHUNKS[-1])
        return max(chunk for chunk in CHUNKS if chunk <= max(1, most)), chain(first, remaining)

    def _named(self, part: Sequence[Read], network: Network, *, size: int, top_k: int) -> list[Prediction]:
        tensors = [item for _, item in part if isinstance(item, Tensor)]
        if tensors and self.engine.backend == "openvino":
            # torch.compile compiles for each new batch size.
            tensors += [torch.zeros_like(tensors[0])] * (size - len(tensors))
        scores = iter(_probabilities(network, torch.stack(tensors)) if tensors else ())
        return [self._prediction(name, item, scores, top_k) for name, item in part]

    def _prediction(self, name: str, item: Tensor | BadImageError, scores: Iterator[Tensor], top_k: int) -> Prediction:
        if isinstance(item, BadImageError):
            return Prediction(image=name, error=str(item))
        best = next(scores).topk(min(top_k, len(self.classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Prediction(
            image=name, classes=tuple(ScoredClass(name=self.classes[index], probability=p) for index, p in pairs)
        )

    def _check_engine(self) -> None:
        """Raise ValueError if the predictions of an engine that was not chosen by measurement differ from the first
        engine's."""
        first = Engine(backend=self._classifier.backends[0], threads=self.engine.threads)
        if self.engine.backend == first.backend or not self._classifier.is_exact(self.engine):
            return
        try:
            right = self._classifier.open(first, device=self.device)
        except MissingPackageError:
            return
        image = self._classifier.sample(1)
        check_agreement(self._classifier, {first: right(image), self.engine: self._one(image)})

    def _check_compiler(self) -> None:
        try:
            self._one(self._classifier.sample(1))
        except Exception as error:  # PyTorch wraps the errors of its compiler backends in classes of its own
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"torch.compile does not work here because it needs a C++ compiler ({reason}); allowed: torch"
            ) from error


def _probabilities(network: Network, images: Tensor) -> Tensor:
    found = network(images).softmax(dim=1)
    if not found.isfinite().all():
        raise ValueError("the network's output is not finite (nan or inf): its training has failed")
    return found
