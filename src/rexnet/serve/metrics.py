"""What a server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Of one process, or as one of several that share the folder which the client library was told of."""

    def __init__(self, *, one_of_several: bool = False):
        self._one_of_several = one_of_several
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("rexnet_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "rexnet_request_seconds",
            "From the end of a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "rexnet_batch_pictures",
            "Pictures computed in one call.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.pending = Gauge(
            "rexnet_pending_pictures",
            "Pictures accepted and not yet answered.",
            ["model"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.reloads = Counter(
            "rexnet_reloads", "Replaced model files, taken up or not.", ["model", "outcome"], registry=registry
        )
        if not one_of_several:
            ProcessCollector(registry=registry)

    def on_batch(self, model: str) -> Callable[[int], None]:
        """What is to be told the size of each batch of that model."""
        return self.batches.labels(model).observe

    def on_pending(self, model: str) -> Callable[[int], None]:
        """What is to be told how many pictures that model has in work."""
        return self.pending.labels(model).set

    def text(self) -> bytes:
        """All of it, of all processes, as Prometheus reads it."""
        if not self._one_of_several:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)
