"""What a replica counts, as Prometheus metrics."""

from functools import cache
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from serving.engine.spent import Spent
from serving.engine.statistics import Statistics
from serving.labels import Bounded, built

# A creation time beside every counter and histogram doubles the page, and nobody reads it.
disable_created_metrics()

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
_NETWORK_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_FILL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_ESS = (1, 1.5, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Phase = Literal["idle", "pack", "network", "reward", "update", "host"]


class ReplicaMetrics:
    """What a replica counts.

    Args:
        identities: how many callers are counted by name; JWTs may name any number.

    Attributes:
        statistics: the counts that Triton has too.
    """

    def __init__(self, identities: int = 100) -> None:
        self._identities = Bounded(identities)
        self.registry = registry = CollectorRegistry(support_collectors_without_names=True)
        built("tiltserve_replica_build_info", "replica", registry)
        ProcessCollector("tiltserve_replica", registry=registry)  # a front's page has process_... of its own
        self.statistics = Statistics()
        registry.register(self.statistics)
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
        self.backlog_limit_rows = Gauge(
            "tiltserve_backlog_limit_rows", "Network rows that are taken on before more are refused", registry=registry
        )
        self.backlog_seconds = Gauge(
            "tiltserve_backlog_seconds", "Estimated seconds of the engine until all that was taken on is done",
            registry=registry,
        )  # fmt: skip
        self.running = Gauge("tiltserve_running_requests", "Requests taken on and not ended", registry=registry)
        self.running_bytes = Gauge(
            "tiltserve_running_bytes", "Memory of these requests, as they estimate it themselves", registry=registry
        )
        self.queue_age_seconds = Gauge(
            "tiltserve_queue_age_seconds",
            "Seconds that the oldest request has waited whose first network call has not begun; 0 for none",
            registry=registry,
        )
        self._drift = Gauge(
            "tiltserve_cost_drift_ratio",
            "Seconds of lately run network calls over those that were measured when the model was loaded",
            ["model"],
            registry=registry,
        )
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
        self._external_failures = Counter(
            "tiltserve_external_failures",
            "Requests that failed because a reward outside of the server gave no scores, by gRPC status",
            ["model", "code"],
            registry=registry,
        )
        self.deadline_misses = Counter(
            "tiltserve_deadline_misses",
            "Requests that were taken on and had not ended by their deadline",
            ["model"],
            registry=registry,
        )
        self._identity_rows = Counter(
            "tiltserve_identity_rows",
            "Rows evaluated here for callers with a name, counted when their request ends; kind is network or reward",
            ["identity", "kind"],
            registry=registry,
        )
        self._identity_seconds = Counter(
            "tiltserve_identity_network_seconds",
            "Seconds of network calls for callers with a name, shared among a call's requests by rows",
            ["identity"],
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
        # looking a series up by its labels takes longer than counting, and the engine counts several times a call
        self._rows = cache(self.rows_total.labels)
        self._seconds = cache(self.network_seconds.labels)
        self._fill = cache(self.bucket_fill.labels)
        self._phase = cache(self._engine_seconds.labels)
        self._drifted = cache(self._drift.labels)

    def spent(self, phase: Phase, seconds: float) -> None:
        """Counts time of the engine."""
        self._phase(phase).inc(seconds)

    def evaluated(self, model: str, kind: str, rows: int) -> None:
        """Counts rows that were evaluated."""
        self._rows(model, kind).inc(rows)

    def called(self, model: str, seconds: float, fill: float) -> None:
        """Counts a network call, `fill` of whose rows were asked for."""
        self._seconds(model).observe(seconds)
        self._fill(model).observe(fill)

    def drifted(self, model: str, ratio: float) -> None:
        """Notes how a network's calls take longer than they did when it was loaded."""
        self._drifted(model).set(ratio)

    def external_failed(self, name: str, error: Exception) -> None:
        """Counts a reward outside of the server that gave no scores; the error may have a gRPC status as `code`."""
        code = getattr(getattr(error, "code", None), "name", "INTERNAL")
        self._external_failures.labels(name, str(code)).inc()

    def used(self, identity: str, spent: Spent) -> None:
        """Counts what a request of a caller took; "" for callers without a name, who are not counted."""
        if not identity or not spent.parts:
            return
        label, seconds = self._identities.of(identity), 0.0
        for part in list(spent.parts.values()):  # a task that was cancelled may still be in a call
            if not part.elsewhere:
                self._identity_rows.labels(label, part.kind).inc(part.rows)
                seconds += part.share_s
        self._identity_seconds.labels(label).inc(seconds)

    def answered(self, model: str, method: str, ess: object) -> None:
        """Counts how samples were drawn: by which steering method ("" where none were), with which effective size."""
        if method:
            self.steering.labels(model, method).inc()
        if isinstance(ess, float):
            self.ess.labels(model).observe(ess)

    def model_bytes(self) -> dict[str, int]:
        """Bytes in memory by model, as far as they are known."""
        families = self.registry.restricted_registry(["tiltserve_model_bytes"]).collect()
        return {each.labels["model"]: int(each.value) for family in families for each in family.samples}

    def text(self) -> str:
        """Prometheus text exposition, what `ReplicaInternal.Metrics` answers."""
        return generate_latest(self.registry).decode()
