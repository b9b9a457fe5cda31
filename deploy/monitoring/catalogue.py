"""Every metric of fronts and replicas, from the registries themselves; writes the tables of docs/metrics.md.

.venv/bin/python -m deploy.monitoring.catalogue
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric

from serving.engine.engine import Engine
from serving.engine.metrics import ReplicaMetrics
from serving.fleet.directory import LocalDirectory
from serving.front.fleet_metrics import FleetMetrics
from serving.front.metrics import FrontMetrics
from serving.front.roster import Roster
from serving.labels import REPLICA
from serving.models.draws import DrawStore
from serving.models.loaded import LoadedModels

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
BEGIN, END = "<!-- made by deploy/monitoring/catalogue.py: begin -->", "<!-- end -->"
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}


@dataclass(frozen=True)
class Known:
    """A metric as its page has it.

    Attributes:
        name: with `_total` where it is a counter.
        labels: without `le` of histograms.
    """

    name: str
    type: str
    labels: tuple[str, ...]
    what: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its series."""
        stem = self.name.removesuffix("_total")
        return tuple(stem + suffix for suffix in SUFFIXES.get(self.type, ("",)))


def of_fronts() -> list[Known]:
    """What a front counts itself."""
    return [*_known(FrontMetrics(FleetMetrics(Roster(LocalDirectory()))).own, ())]


def of_replicas() -> list[Known]:
    """What a replica counts, as pages show it."""
    metrics = ReplicaMetrics()
    Engine(metrics).stop()
    with tempfile.TemporaryDirectory() as empty:
        draws = DrawStore(registry=metrics.registry)
        LoadedModels(Path(empty), 1, registry=metrics.registry, draws=draws).close()
    return [*_known(metrics.registry, (REPLICA,))]


def series() -> dict[str, tuple[str, ...]]:
    """The labels of every series by its name, `le` included."""
    return {
        name: (*each.labels, *(("le",) if name.endswith("_bucket") else ()))
        for each in (*of_fronts(), *of_replicas())
        for name in each.series
    }


def _known(registry: CollectorRegistry, labels: tuple[str, ...]) -> Iterator[Known]:
    # the library tells labels of no series that there is not yet, so its own tables are read
    for collector in list(registry._collector_to_names):
        for family in collector.collect():
            names = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", None) or ()
            suffix = "_total" if family.type == "counter" else ""
            yield Known(family.name + suffix, family.type, (*names, *labels), _line(family))


def _line(family: Metric) -> str:
    return family.documentation.strip().rstrip(".").replace("|", "\\|")


def tables() -> str:
    """The tables of the page."""
    found = ["", "### Of a front", "", *_table(of_fronts()), "", "### Of a replica", "", *_table(of_replicas()), ""]
    return "\n".join(found)


def _table(metrics: list[Known]) -> Iterator[str]:
    yield "| metric | type | labels | what |"
    yield "| --- | --- | --- | --- |"
    for each in sorted(metrics, key=lambda known: known.name):
        labels = ", ".join(f"`{name}`" for name in each.labels)
        yield f"| `{each.name}` | {each.type} | {labels} | {each.what} |"


def renewed(page: str) -> str:
    """The page with the tables of now."""
    return re.sub(rf"(?<={re.escape(BEGIN)}\n).*(?={re.escape(END)})", lambda _: tables(), page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
