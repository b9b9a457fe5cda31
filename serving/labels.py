"""Labels of metrics: which replica counted, and names from outside, of which there may be only so many."""

import platform
import threading
from collections.abc import Iterable, Iterator
from importlib import metadata

from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.registry import Collector

REPLICA = "replica_id"
"""Says which replica counted. Not `replica`, which Thanos and others drop to make one series of those that two
Prometheus servers scraped."""
OTHER = "other"


class Bounded:
    """Names as values of a label: the first `most` different ones as they are, whoever comes later as `other`. For any
    thread."""

    def __init__(self, most: int) -> None:
        self._most, self._names = most, set[str]()
        self._lock = threading.Lock()

    def of(self, name: str) -> str:
        """The label's value for a name."""
        if name in self._names:
            return name
        with self._lock:
            if len(self._names) < self._most:
                self._names.add(name)
                return name
        return OTHER


class OfReplica(Collector):
    """What another collector has, each sample with the replica that counted it."""

    def __init__(self, counted: Collector, replica: str) -> None:
        self._counted, self._replica = counted, replica

    def collect(self) -> Iterator[Metric]:
        """Implements `Collector`."""
        return of_replica(self._counted.collect(), self._replica)


def of_replica(families: Iterable[Metric], replica: str) -> Iterator[Metric]:
    """The same metrics, each sample with the replica that counted it."""
    for family in families:
        labelled = Metric(family.name, family.documentation, family.type)
        labelled.samples = [each._replace(labels={**each.labels, REPLICA: replica}) for each in family.samples]
        yield labelled


def version() -> str:
    """Of this program."""
    try:
        return metadata.version("tiltserve")
    except metadata.PackageNotFoundError:
        return "unknown"


def built(name: str, what: str, registry: CollectorRegistry) -> None:
    """A metric that is 1 and has the version of the program."""
    info = Gauge(name, f"1, with the version of the {what} and of its Python", ["version", "python"], registry=registry)
    info.labels(version(), platform.python_version()).set(1)
