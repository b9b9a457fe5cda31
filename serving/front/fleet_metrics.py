"""What a front sees of its fleet, as metrics: replicas, what they serve, and how old its list of them is.

Every front of a fleet sees the same, so these are for `max` and `min` over fronts, not for sums.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.fleet.directory import State, latest
from serving.front.roster import Roster
from serving.front.router import Index, Route
from serving.front.summary import BEST_FIRST

MISSED_S = 3600.0
"""Seconds for which a model that no replica lists any more is shown, as one without replicas."""
_RAW = ".network"


class FleetMetrics(Collector):
    """Reads a roster; `follow` after each of its reads, on the front's event loop, `collect` on any thread."""

    def __init__(self, roster: Roster, clock: Callable[[], float] = time.monotonic) -> None:
        self._roster, self._clock = roster, clock
        self._lock = threading.Lock()
        self._listed: frozenset[str] | None = None
        self._given_up = set[str]()
        self._joined = self._lost = 0
        self._models: dict[str, tuple[float, Counter[State]]] = {}

    def gave_up(self, replica_id: str) -> None:
        """A replica did not answer a request."""
        with self._lock:
            if self._listed is not None and replica_id in self._listed and replica_id not in self._given_up:
                self._given_up.add(replica_id)
                self._lost += 1

    def follow(self) -> None:
        """The list may have changed."""
        index, now = self._roster.index, self._clock()
        listed = frozenset(each.id for each in index.replicas)
        with self._lock:
            if self._listed is not None:
                self._joined += len(listed - self._listed)
                for gone in self._listed - listed - self._given_up:
                    self._lost += self._roster.silent(gone)  # one that was told to stop leaves without a silence
                self._given_up &= self._listed - listed
            if listed or self._listed is not None:  # a front that starts finds its replicas, they do not join
                self._listed = listed
            for name, states in _states(index).items():
                self._models[name] = now, states
            unwanted = {
                name for name, wish in latest(w for r in index.replicas for w in r.wishes).items() if not wish.loaded
            }
            self._models = {
                name: (seen, states if seen == now else Counter())
                for name, (seen, states) in self._models.items()
                if name not in unwanted and now - seen < MISSED_S
            }

    def collect(self) -> Iterable[Metric]:
        """Implements `Collector`."""
        with self._lock:
            joined, lost = self._joined, self._lost
            models: Mapping[str, Counter[State]] = {name: states for name, (_, states) in self._models.items()}
        draining = [each.draining for each in self._roster.index.replicas]
        replicas = GaugeMetricFamily(
            "tiltserve_replicas", "Replicas that the front knows of; state is serving or draining", labels=["state"]
        )
        replicas.add_metric(["serving"], draining.count(False))
        replicas.add_metric(["draining"], draining.count(True))
        yield replicas
        held = GaugeMetricFamily(
            "tiltserve_model_replicas",
            "Replicas that list a model, by its state there; those in state ready take requests. "
            "Models that were unloaded on purpose are left out, those that nobody lists any more are 0 for an hour",
            labels=["model", "state"],
        )
        for name, states in sorted(models.items()):
            for state in BEST_FIRST:
                held.add_metric([name, state.lower()], states[state])
        yield held
        yield CounterMetricFamily(
            "tiltserve_replicas_joined", "Replicas that came to the list after the front had it", value=joined
        )
        yield CounterMetricFamily(
            "tiltserve_replicas_lost",
            "Replicas that left the list without having said so, or did not answer a request",
            value=lost,
        )
        yield GaugeMetricFamily(
            "tiltserve_directory_age_seconds",
            "Seconds since the front could read the list of replicas",
            value=self._roster.age_s,
        )


def _states(index: Index) -> dict[str, "Counter[State]"]:
    """For each model but raw networks how many replicas have it in which state, the best of its versions."""
    found = dict[str, Counter[State]]()
    for name, listed in index.models.items():
        if name.endswith(_RAW) and name.removesuffix(_RAW) in index.models:
            continue
        by_replica = dict[str, list[Route]]()
        for route in listed.routes:
            by_replica.setdefault(route.replica.id, []).append(route)
        found[name] = Counter(_best(routes) for routes in by_replica.values())
    return found


def _best(routes: Sequence[Route]) -> State:
    if any(each.takes_requests for each in routes):
        return "READY"
    states = ("UNAVAILABLE" if each.model.state == "READY" else each.model.state for each in routes)
    return min(states, key=BEST_FIRST.index)
