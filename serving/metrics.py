"""Prometheus metrics of a front and of a replica, and the front's page, which shows both."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from serving.answer import Answer

# A creation time beside every counter and histogram doubles the page, and nobody reads it.
disable_created_metrics()

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
_NETWORK_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_FILL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
Phase = Literal["idle", "pack", "network", "reward", "update", "host"]
_ESS = (1, 1.5, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class FrontMetrics:
    """What a front counts. `replica_pages` gives the metrics text of each live replica by its id."""

    def __init__(self, replica_pages: Callable[[], Mapping[str, str]] = dict) -> None:
        self.registry = registry = CollectorRegistry()
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
        """Counts one RPC. `model` must be one that is served, or "": clients do not get to make up label values."""
        self.requests.labels(model, method, code.name).inc()
        self.request_seconds.labels(model, method).observe(seconds)
        if method == "ModelInfer":
            (self._success if code is grpc.StatusCode.OK else self._failure).labels(model).inc()


class ReplicaMetrics:
    """What a replica counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.rows_total = Counter(
            "tiltserve_rows", "Rows evaluated; kind is network or reward", ["model", "kind"], registry=registry
        )
        self.bucket_fill = Histogram(
            "tiltserve_bucket_fill",
            "Share of a network call's rows that were asked for",
            ["model"],
            buckets=_FILL,
            registry=registry,
        )
        self.backlog_rows = Gauge("tiltserve_backlog_rows", "Network rows still to evaluate", registry=registry)
        self.network_seconds = Histogram(
            "tiltserve_network_seconds",
            "Seconds of a network call",
            ["model"],
            buckets=_NETWORK_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "tiltserve_queue_seconds",
            "Seconds a request waits for its first network call",
            ["model"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.external_seconds = Histogram(
            "tiltserve_external_seconds",
            "Seconds a request waits for one reply of a reward outside of the server",
            ["model"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.ess = Histogram(
            "tiltserve_ess",
            "Mean effective sample size of a steered request's weights",
            ["model"],
            buckets=_ESS,
            registry=registry,
        )

        self.steering = Counter(
            "tiltserve_steering", "Requests for samples answered, by steering method", ["model", "method"],
            registry=registry,
        )  # fmt: skip

        self.refused = Counter(
            "tiltserve_refused", "Requests not taken on; reason is queue (rows or memory) or deadline",
            ["model", "reason"], registry=registry,
        )  # fmt: skip
        self.reclaimed = Counter(
            "tiltserve_reclaimed_rows", "Network rows of requests cancelled, late or failed, not evaluated",
            ["model", "reason"], registry=registry,
        )  # fmt: skip
        self._engine_seconds = Counter(
            "tiltserve_engine_seconds",
            "Where the engine's time goes: idle, pack, network, reward and update; host is a thread of its own",
            ["phase"], registry=registry,
        )  # fmt: skip

    def spent(self, phase: Phase, seconds: float) -> None:
        """Counts time of the engine."""
        self._engine_seconds.labels(phase).inc(seconds)

    def answered(self, model: str, answer: Answer) -> None:
        """Counts how samples were drawn."""
        if answer.steering:
            self.steering.labels(model, answer.steering).inc()
        if isinstance(ess := answer.parameters.get("ess"), float):
            self.ess.labels(model).observe(ess)

    def text(self) -> str:
        """Prometheus text exposition, what `ReplicaInternal.Metrics` answers."""
        return generate_latest(self.registry).decode()


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
