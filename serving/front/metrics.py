"""What a front counts, and its page, which shows what its replicas count too."""

from collections.abc import Callable, Iterable, Mapping

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from serving.front.fleet_metrics import FleetMetrics
from serving.labels import Bounded, built, of_replica
from serving.watching.record import Record
from serving.watching.watching import Watching

# Creation times of counters and histograms would double the page, and no dashboard uses them.
disable_created_metrics()

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
IDENTITIES = 100
OWN = "/metrics/front"
"""The path of the page without replicas: for fleets of many fronts, whose replicas are scraped by themselves."""


class FrontMetrics:
    """What a front counts.

    Args:
        fleet: what it sees of its fleet.
        replica_pages: gives the metrics text of each live replica by its id.
        watching: who else is told of each call.
        identities: how many callers are counted by name; JWTs may name any number.

    Attributes:
        own: what the front itself counts. registry: that, and what its replicas count.
    """

    def __init__(
        self,
        fleet: FleetMetrics,
        replica_pages: Callable[[], Mapping[str, str]] = dict,
        watching: Watching | None = None,
        identities: int = IDENTITIES,
    ) -> None:
        self.fleet, self.watching = fleet, watching or Watching()
        self._identities = Bounded(identities)
        self.own = registry = CollectorRegistry(support_collectors_without_names=True)
        built("tiltserve_build_info", "front", registry)
        ProcessCollector(registry=registry)
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
        self.in_flight = Gauge(
            "tiltserve_requests_in_flight", "RPCs that have come and not ended", ["method"], registry=registry
        )
        self.replays = Counter(
            "tiltserve_replays", "Requests sent again because a replica was lost", ["model"], registry=registry
        )
        self._of_identities = Counter(
            "tiltserve_identity_requests",
            "RPCs ended of callers with a name, by gRPC status; `other` are those beyond --metrics-identities",
            ["identity", "code"],
            registry=registry,
        )
        # Triton's names, which dashboards know; a Gauge, because a Counter's name ends in _total.
        self._success = Gauge(
            "nv_inference_request_success", "Inference requests that succeeded", ["model"], registry=registry
        )
        self._failure = Gauge(
            "nv_inference_request_failure", "Inference requests that failed", ["model"], registry=registry
        )
        registry.register(fleet)
        # a replica's metrics have no names before they are fetched: without the option `?name[]=` would leave them out
        self.registry = CollectorRegistry(support_collectors_without_names=True)
        self.registry.register(self.own)
        self.registry.register(ReplicaPages(replica_pages))

    def finished(self, model: str, record: Record, code: grpc.StatusCode, seconds: float) -> None:
        """Counts one RPC. `model` must be one that is served, or "": else clients could create label values."""
        method = record.method
        self.requests.labels(model, method, code.name).inc()
        # only of a trace that is kept: others lead nowhere
        traced = record.trace is not None and record.trace.sampled
        exemplar = {"trace_id": record.trace.id} if traced and record.trace is not None else None
        self.request_seconds.labels(model, method).observe(seconds, exemplar)
        self._of(record.identity, code)
        if method in ("ModelInfer", "ModelStreamInfer"):
            (self._success if code is grpc.StatusCode.OK else self._failure).labels(model).inc()

    def refused(self, method: str, code: grpc.StatusCode, identity: str = "") -> None:
        """Counts an RPC that was refused before it was read; `method` is one that is served, or ""."""
        self.requests.labels("", method, code.name).inc()
        self._of(identity, code)

    def _of(self, identity: str, code: grpc.StatusCode) -> None:
        if identity:
            self._of_identities.labels(self._identities.of(identity), code.name).inc()


class ReplicaPages(Collector):
    """The metrics of all replicas as one, with the label `replica_id` on every sample."""

    def __init__(self, pages: Callable[[], Mapping[str, str]]) -> None:
        self._pages = pages

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for replica, text in sorted(self._pages().items()):
            for family in of_replica(text_string_to_metric_families(text), replica):
                merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                ).samples += family.samples
        return merged.values()
