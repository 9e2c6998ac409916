"""Open models: a classifier or detector, ready to answer requests."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from rexnet.deploy.class_predictor import ClassPredictor
from rexnet.deploy.classifiers import Classifier
from rexnet.deploy.predictor import open_model
from rexnet.detection.checkpoints import TrainedDetector
from rexnet.detection.runtime import Detections, ObjectPredictor
from rexnet.engines.config import list_parts
from rexnet.errors import BadImageError
from rexnet.files import digest_of
from rexnet.references import Kind, Reference
from rexnet.serve.batching import Batcher
from rexnet.serve.config import ServeConfig
from rexnet.serve.explain import Explainer
from rexnet.serve.http_errors import HTTPError
from rexnet.serve.metrics import Metrics, ModelMetrics
from rexnet.training.checkpoint import TrainedRexNet

_MASK_PIXELS = 1_800_000
"""Largest image for a detector with masks: torchvision's detectors do not use more pixels, and paste up to a hundred
masks of this size."""
_BOX_PIXELS = 16_000_000
"""Largest image for a detector of boxes; the detector shrinks it further, but only after converting it to float32."""


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """An open model, which stays usable when its file is replaced."""

    kind: Literal["classifier", "detector"]
    version: str
    """First digits of the file's SHA-256; for the network of a library, the version of the library."""
    classes: tuple[str, ...]
    backend: str
    precision: str
    prepare: Callable[[Image.Image], Any]
    """Convert an RGB image to an item for `batcher`."""
    batcher: Batcher[Any, Any]
    """Batcher from image tensors to probabilities (K,) for a classifier, from images to Detections for a detector."""
    metrics: ModelMetrics
    semaphore: AbstractAsyncContextManager[Any] = field(default_factory=nullcontext)
    """Semaphore held while an image is in memory, which limits the number of a detector's images in memory."""
    explainer: Explainer | None = None
    """Explainer of a classifier; None for detectors and exported files."""
    masks: bool = False
    score_threshold: float | None = None
    """Minimum score of the objects shown; None for a classifier."""
    image_size_px: int | None = None
    image_shape: tuple[int, ...] | None = None
    """Shape of a classifier's item: (3, S, S) float32 or (S, S, 3) uint8."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of /models."""
        names = ("kind", "version", "image_size_px", "backend", "precision", "masks", "score_threshold")
        explains = self.explainer is not None
        return {name: getattr(self, name) for name in names} | {"explains": explains, "classes": list(self.classes)}


Identity = tuple[tuple[int, int, int], ...]
_LIBRARIES: tuple[Kind, ...] = ("timm", "torchvision")


def identity(reference: Reference) -> Identity:
    """Return the identity of the file and, for an .xml file, of the weights beside it, which changes when either is
    replaced; () for the network of a library, which has no file. Raise OSError if the file is missing."""
    if reference.kind in _LIBRARIES:
        return ()
    statuses = (part.stat() for part in list_parts(reference.file))
    return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in statuses)


def open_served(name: str, reference: Reference, config: ServeConfig, *, metrics: Metrics) -> OpenModel:
    """Open a model and check it on one image. Raise ValueError for one that cannot be used."""
    version = (
        _library_version(reference) if reference.kind in _LIBRARIES else digest_of(*list_parts(reference.file))[:12]
    )
    measured = ModelMetrics(metrics, name, version)
    opened = open_model(reference, threads=config.threads_per_worker)
    if isinstance(opened, TrainedDetector):
        return _open_detector(opened, version, config, metrics=measured)
    return _open_classifier(opened, version, config, metrics=measured)


def _open_classifier(source: Classifier, version: str, config: ServeConfig, *, metrics: ModelMetrics) -> OpenModel:
    predictor = ClassPredictor(
        source,
        backend=config.backend,
        precision=config.precision,
        threads=config.threads_per_worker,
        device=config.device,
    )

    def compute(images: Sequence[Tensor], alone: bool) -> Sequence[Tensor]:
        return predictor.probabilities(torch.stack(list(images)), alone=alone).unbind()

    sizes = [1 << power for power in range(config.max_batch.bit_length())]
    for size in sizes:
        # Compile for each batch size now; otherwise OpenVINO would do it during a request.
        predictor.probabilities(predictor.sample(size), alone=False)
    predictor.probabilities(predictor.sample(1))
    return OpenModel(
        kind="classifier",
        version=version,
        classes=tuple(predictor.classes),
        backend=predictor.engine.backend,
        precision=predictor.engine.precision,
        prepare=predictor.prepare,
        batcher=Batcher(
            compute,
            lanes=predictor.calls_at_once,
            max_batch=config.max_batch,
            wait_ms=config.batch_wait_ms,
            on_batch=metrics.observe_batch,
        ),
        metrics=metrics,
        explainer=Explainer(source.model.to(predictor.device)) if isinstance(source.model, TrainedRexNet) else None,
        image_size_px=predictor.preprocess.image_size_px,
        image_shape=predictor.image_shape,
    )


def _open_detector(source: TrainedDetector, version: str, config: ServeConfig, *, metrics: ModelMetrics) -> OpenModel:
    predictor = ObjectPredictor(source, threads=config.threads_per_worker, device=config.device)

    def compute(images: Sequence[Image.Image], alone: bool) -> Sequence[Detections]:
        return list(predictor.stream(images, batch_size=len(images)))

    (sample,) = predictor(Image.new("RGB", (64, 64)))
    masks = "masks" in sample.output
    # No batching: each image keeps a CPU busy, and a batch would be padded to the largest image.
    most = 1 if predictor.device.type == "cpu" else config.max_batch
    return OpenModel(
        kind="detector",
        version=version,
        classes=tuple(predictor.classes),
        backend=predictor.engine.backend,
        precision=predictor.engine.precision,
        prepare=partial(_shrink, predictor, most_pixels=_MASK_PIXELS if masks else _BOX_PIXELS),
        batcher=Batcher(compute, lanes=1, max_batch=most, wait_ms=config.batch_wait_ms, on_batch=metrics.observe_batch),
        metrics=metrics,
        semaphore=asyncio.Semaphore(2 * most + 1),
        masks=masks,
        score_threshold=source.score_threshold,
    )


def _shrink(predictor: ObjectPredictor, image: Image.Image, *, most_pixels: int) -> Image.Image:
    try:
        predictor.check_shape(image)
    except BadImageError as error:
        raise HTTPError(400, f"the image cannot be used: {error.reason}") from error
    scale = (most_pixels / (image.width * image.height)) ** 0.5
    if scale >= 1:
        return image
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _library_version(reference: Reference) -> str:
    from importlib.metadata import version

    return f"{reference.kind} {version(reference.kind)}"
