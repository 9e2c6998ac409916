"""Predictor for any model: class names with probabilities, or boxes and masks with class names."""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, final

from torch import nn

from rexnet.data.decode import BadImagePolicy
from rexnet.data.image_stream import Images
from rexnet.data.preprocess import Preprocess
from rexnet.deploy.class_predictor import ClassPredictor, Prediction, ScoredClass
from rexnet.deploy.classifiers import Classifier, of_exported, of_model
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.detection.exported_detectors import load_exported
from rexnet.detection.runtime import ObjectPredictor
from rexnet.engines.config import Backend, Precision
from rexnet.engines.graph_files import read_facts
from rexnet.errors import require
from rexnet.loading import open_trained
from rexnet.references import PREDICTABLE, Reference, resolve
from rexnet.training.checkpoint import DETECTION

__all__ = ["Prediction", "Predictor", "ScoredClass", "open_model"]

Source = str | PathLike[str] | Reference | nn.Module | TrainedDetector


@final
class Predictor:
    """Trained classifier or detector with its class names.

    Thread-safe, and can be pickled. A result does not depend on the rest of the batch, except for rounding. It also has
    the attributes of the underlying ClassPredictor or ObjectPredictor.
    """

    def __init__(
        self,
        model: Source,
        *,
        network: str | None = None,
        classes: Sequence[str] | None = None,
        preprocess: Preprocess | None = None,
        backend: Backend | Literal["auto"] = "auto",
        precision: Precision | Literal["auto"] = "auto",
        threads: int | None = None,
        device: str = "auto",
        measure: bool = True,
    ):
        """Open `model`: anything that `rexnet.load` takes or returns, a .onnx or .xml file of `rexnet export`, or a
        network in memory, which is copied.

        `network` as for `rexnet.load`; `classes` and `preprocess` for a network without them. backend "auto" measures
        the engines on this machine at the first start (`rexnet.deploy.engine_choice`) or, without `measure`, takes the
        first that is installed; on devices other than the CPU it is PyTorch. precision "auto" is the precision of the
        file, fp32 for a checkpoint. For a detector both must be "auto". `threads` read images and run the engine; None:
        one per CPU. `device`: auto, cpu, cuda, cuda:1 or mps. Raise ValueError for a model that cannot be opened.
        """
        require(threads is None or threads >= 1, "threads", threads, "1 or more, or None")
        if isinstance(model, str | PathLike):
            model = resolve(model, allowed=PREDICTABLE)
        opened = open_model(model, network=network, classes=classes, preprocess=preprocess, threads=threads)
        self._model = model
        self._options: dict[str, Any] = {"threads": threads, "device": device, "network": network}
        self._runtime: ClassPredictor | ObjectPredictor
        if isinstance(opened, TrainedDetector):
            require(backend == "auto", "backend", backend, "auto for a detector")
            require(precision == "auto", "precision", precision, "auto for a detector")
            self._runtime = ObjectPredictor(opened, threads=threads, device=device)
        else:
            self._runtime = ClassPredictor(
                opened, backend=backend, precision=precision, threads=threads, device=device, measure=measure
            )
            engine = self._runtime.engine
            self._options |= {"backend": engine.backend, "precision": engine.precision}
            self._options |= {"classes": classes, "preprocess": preprocess}

    @property
    def task(self) -> Literal["classification", "detection"]:
        return "detection" if isinstance(self._runtime, ObjectPredictor) else "classification"

    @property
    def classes(self) -> tuple[str, ...]:
        return self._runtime.classes

    def __call__(self, images: Images, **options: Any) -> list[Any]:
        """Return a Prediction or Detections per image, in order, for one or many images.

        `images`: paths, encoded bytes, Pillow images, uint8 arrays (H, W, 3) or (B, H, W, 3) and uint8 tensors (3, H,
        W) or (B, 3, H, W), red, green, blue.

        `options`: top_k (5) for a classifier, min_score (0.0) for a detector. Raise BadImageError for a file that
        cannot be read, ValueError for any other input.
        """
        return list(self.stream(images, **options))

    def stream(self, images: Images, *, bad_image: BadImagePolicy = "error", **options: Any) -> Iterator[Any]:
        """Yield the results of a call, for any number of images in constant memory; images are read a few dozen ahead.
        With bad_image "skip", an unreadable image yields its error. `options` as for a call, and batch_size for a
        detector."""
        return self._runtime.stream(images, bad_image=bad_image, **options)

    def __getattr__(self, name: str) -> Any:
        if name == "_runtime":  # before __init__, as in copies
            raise AttributeError(name)
        return getattr(self._runtime, name)

    def __getstate__(self) -> dict[str, Any]:
        model = self._model
        if isinstance(model, Reference) and Path(model.text).exists() and model.kind not in ("network", "published"):
            model = model.path.absolute()
        return {"model": model, **self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


def open_model(
    model: Source,
    *,
    network: str | None = None,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    threads: int | None = None,
) -> Classifier | TrainedDetector:
    """Return the classifier or detector that `model` is or names.

    `threads` are for a detector's graph. The other arguments and the errors are those of `Predictor`.
    """
    named = classes is not None or preprocess is not None
    if isinstance(model, nn.Module):
        return of_model(model, classes=classes, preprocess=preprocess)
    if named:
        raise ValueError("classes and preprocess were given for a model that has its own; omit them")
    if isinstance(model, TrainedDetector):
        return model
    reference = model if isinstance(model, Reference) else resolve(model, allowed=PREDICTABLE)
    if reference.kind == "exported":
        require(network is None, "model", network, "None for an exported file")
        detects = read_facts(reference.path).get("task") == DETECTION
        return load_exported(reference.path, threads=threads) if detects else of_exported(reference.path)
    trained = open_trained(reference, network=network)
    return trained if isinstance(trained, TrainedDetector) else of_model(trained)
