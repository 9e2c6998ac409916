"""Metrics for Prometheus, statistics of each model, and a line in the access log for every request."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Literal, TextIO, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rexnet.serve.batching import Batched

logger = logging.getLogger(__name__)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Stage = Literal["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"]
"""Names in Triton's statistics: requests that succeeded or failed, and the processing stages of their images."""
_STAGES: tuple[Stage, ...] = get_args(Stage)


class Metrics:
    """Metrics of one process, or of several that share a folder of the Prometheus client."""

    def __init__(self, *, one_of_several: bool = False):
        self._one_of_several = one_of_several
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("rexnet_requests", "Answered requests.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "rexnet_request_seconds",
            "Time from the headers of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "rexnet_batch_images", "Images per batch.", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.pending = Gauge(
            "rexnet_pending_images",
            "Images accepted and not yet answered.",
            ["model"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.reloads = Counter(
            "rexnet_reloads", "Model files that were replaced or are missing.", ["model", "outcome"], registry=registry
        )
        self.inference = Summary(
            "rexnet_inference_seconds",
            "Requests that succeeded or failed, and the stages of their images.",
            ["model", "version", "stage"],
            registry=registry,
        )
        self.last_inference = Gauge(
            "rexnet_last_inference_timestamp_seconds",
            "Unix time of the last batch.",
            ["model", "version"],
            multiprocess_mode="max",
            registry=registry,
        )
        if not one_of_several:
            ProcessCollector(registry=registry)

    def on_pending(self, model: str) -> Callable[[int], None]:
        """Return a function that records the number of pending images of that model."""
        return self.pending.labels(model).set

    def _collected(self) -> CollectorRegistry:
        """Return the metrics of all processes."""
        if not self._one_of_several:
            return self._registry
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return together

    def text(self) -> bytes:
        """Return the metrics of all processes in Prometheus' text format."""
        return generate_latest(self._collected())

    def samples(self) -> list[Sample]:
        """Return all values of all processes."""
        return [sample for family in self._collected().collect() for sample in family.samples]


class ModelMetrics:
    """Metrics of one version of a model."""

    def __init__(self, metrics: Metrics, model: str, version: str):
        self._metrics = metrics
        self._labels = {"model": model, "version": version}

    def observe(self, stage: Stage | Literal["batch"], seconds: float) -> None:
        """Count a request, an image or a batch in this stage, and add its time."""
        self._metrics.inference.labels(**self._labels, stage=stage).observe(seconds)

    def observe_batch(self, images: Sequence[Batched[Any]]) -> None:
        """Count a batch and the images in it."""
        self._metrics.batches.labels(self._labels["model"]).observe(len(images))
        self._metrics.last_inference.labels(**self._labels).set_to_current_time()
        self.observe("batch", images[0].compute_ms / 1e3)
        for image in images:
            self.observe("queue", image.wait_ms / 1e3)
            self.observe("compute_infer", image.compute_ms / 1e3)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request, as a failure if the block raises."""
        started = perf_counter()
        stage: Stage = "fail"
        try:
            yield
            stage = "success"
        finally:
            self.observe(stage, perf_counter() - started)

    def statistics(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return the counts and nanoseconds in `Metrics.samples` under the names of Triton's statistics extension."""
        found = {
            (sample.name, sample.labels.get("stage", "")): sample.value
            for sample in samples
            if self._labels.items() <= sample.labels.items()
        }

        def duration(stage: str) -> dict[str, int]:
            count, seconds = (found.get((f"rexnet_inference_seconds_{key}", stage), 0) for key in ("count", "sum"))
            return {"count": int(count), "ns": round(seconds * 1e9)}

        return {
            "name": self._labels["model"],
            "version": self._labels["version"],
            "last_inference": round(1e3 * found.get(("rexnet_last_inference_timestamp_seconds", ""), 0)),
            "inference_count": duration("compute_infer")["count"],
            "execution_count": duration("batch")["count"],
            "inference_stats": {stage: duration(stage) for stage in _STAGES},
            "batch_stats": [],
        }


class Observation:
    """ASGI middleware, the outermost, that counts and logs requests."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log: TextIO | None):
        self._app = app
        self._metrics = metrics
        self._log = log
        self._log_fails = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        status, sent = 0, 0

        async def observed(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            elif scope["method"] != "HEAD":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception:
            status = status or 500
            raise
        finally:
            seconds = perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, status or "gone").inc()
            self._metrics.seconds.labels(route).observe(seconds)
            self._write(scope, status=status, milliseconds=round(seconds * 1e3, 2), bytes_sent=sent)

    def _write(self, scope: Scope, **facts: Any) -> None:
        if self._log is None:
            return
        client = scope.get("client")
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"][:200],
            "bytes_received": scope.get("rexnet.bytes"),
            **facts,
        }
        try:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
        except OSError as error:  # keep answering when the disk is full
            if not self._log_fails:
                logger.warning("the access log cannot be written: %s", error)
            self._log_fails = True
            return
        if self._log_fails:
            logger.warning("the access log can be written again")
        self._log_fails = False
