"""What a front counts, and its page, which shows what its replicas count too."""

from collections.abc import Callable, Iterable, Mapping

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from serving.watching.watching import Watching

# Creation times of counters and histograms would double the page, and no dashboard uses them.
disable_created_metrics()

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)


class FrontMetrics:
    """What a front counts.

    Args:
        replica_pages: gives the metrics text of each live replica by its id.
        watching: who else is told of each call.
    """

    def __init__(self, replica_pages: Callable[[], Mapping[str, str]] = dict, watching: Watching | None = None) -> None:
        self.watching = watching or Watching()
        # a replica's metrics have no names before they are fetched: without the option `?name[]=` would leave them out
        self.registry = registry = CollectorRegistry(support_collectors_without_names=True)
        self.requests = Counter(
            "tiltserve_requests", "RPCs ended, by gRPC status", ["model", "method", "code"], registry=registry
        )
        self.request_seconds = Histogram(
            "tiltserve_request_seconds",
            "Seconds from a request's arrival to its answer",
            ["model", "method"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.replays = Counter(
            "tiltserve_replays", "Requests sent again because a replica was lost", ["model"], registry=registry
        )
        # Triton's names, which dashboards know; a Gauge, because a Counter's name ends in _total.
        self._success = Gauge(
            "nv_inference_request_success", "Inference requests that succeeded", ["model"], registry=registry
        )
        self._failure = Gauge(
            "nv_inference_request_failure", "Inference requests that failed", ["model"], registry=registry
        )
        registry.register(ReplicaPages(replica_pages))

    def finished(self, model: str, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Counts one RPC. `model` must be one that is served, or "": else clients could create label values."""
        self.requests.labels(model, method, code.name).inc()
        self.request_seconds.labels(model, method).observe(seconds)
        if method in ("ModelInfer", "ModelStreamInfer"):
            (self._success if code is grpc.StatusCode.OK else self._failure).labels(model).inc()

    def refused(self, method: str, code: grpc.StatusCode) -> None:
        """Counts an RPC that was refused before it was read; `method` is one that is served, or ""."""
        self.requests.labels("", method, code.name).inc()


class ReplicaPages(Collector):
    """The metrics of all replicas as one, with a label `replica` on every sample."""

    def __init__(self, pages: Callable[[], Mapping[str, str]]) -> None:
        self._pages = pages

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for replica, text in sorted(self._pages().items()):
            for family in text_string_to_metric_families(text):
                whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                whole.samples += [
                    sample._replace(labels={**sample.labels, "replica": replica}) for sample in family.samples
                ]
        return merged.values()
