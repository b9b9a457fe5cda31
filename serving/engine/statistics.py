"""What Triton's ModelStatistics tells of a replica's models: requests and their times, and calls by size."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Served = tuple[str, str]
"""The name and the version of a model."""


@dataclass
class Duration:
    """How often something was done, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Once more, for so long."""
        self.count += 1
        self.ns += _ns(seconds)


@dataclass
class Requests:
    """The requests for one version of a model.

    A request that succeeds has taken the four times between `queue` and `compute_output` one after another: its inputs
    are read, it waits for its first network call, its calls run (and what it computes between them), and its answer is
    written.

    Attributes:
        last_ms: when the last one came, in milliseconds since 1970; 0 for none.
        inferences: rows, or samples, of those that succeeded.
        success, fail: as a whole. Those that were cancelled failed.
        cancel: of those that failed.
    """

    last_ms: int = 0
    inferences: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass
class Executions:
    """Calls of a network with one number of rows, padding not counted: packing, running, and handing out."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(frozen=True)
class Times:
    """Seconds of a request that succeeded, see `Requests`."""

    compute_input: float
    queue: float
    compute_infer: float
    compute_output: float


class Statistics(Collector):
    """The counts of one replica, also as the metrics that Triton has of them; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[Served, Requests] = {}
        self._executions: dict[Served, dict[int, Executions]] = {}

    def called(self, network: Served, rows: int, packing_s: float, running_s: float) -> None:
        """A call of a network that went well; `handed_out` follows."""
        with self._lock:
            found = self._executions.setdefault(network, {}).setdefault(rows, Executions())
            found.compute_input.add(packing_s)
            found.compute_infer.add(running_s)
            found.compute_output.add(0.0)

    def handed_out(self, network: Served, rows: int, seconds: float) -> None:
        """How long it took after the last call of so many rows until its tasks went on."""
        with self._lock:
            self._executions[network][rows].compute_output.ns += _ns(seconds)

    def succeeded(self, model: Served, came_s: float, inferences: int, times: Times) -> None:
        """A request was answered.

        Args:
            came_s: when it came, in seconds since 1970.
            inferences: its rows or samples.
        """
        seconds = {each.name: getattr(times, each.name) for each in fields(times)}
        with self._lock:
            found = self._of(model, came_s)
            found.inferences += inferences
            found.success.add(sum(seconds.values()))
            for name, each in seconds.items():
                getattr(found, name).add(each)

    def failed(self, model: Served, came_s: float, seconds: float, *, cancelled: bool) -> None:
        """A request failed; `cancelled` by its caller, or by its deadline."""
        with self._lock:
            found = self._of(model, came_s)
            found.fail.add(seconds)
            if cancelled:
                found.cancel.add(seconds)

    def requests(self) -> dict[Served, Requests]:
        """A copy of all counts of requests."""
        with self._lock:
            return {served: _copied(each) for served, each in self._requests.items()}

    def executions(self) -> dict[Served, dict[int, Executions]]:
        """A copy of all counts of calls, by rows."""
        with self._lock:
            return {
                served: {rows: _copied(each) for rows, each in sorted(sizes.items())}
                for served, sizes in self._executions.items()
            }

    def collect(self) -> Iterator[Metric]:
        """Triton's metrics; gauges, because a counter's name would have to end in `_total`."""
        requests, executions = self.requests(), self.executions()
        calls = {
            served: sum(each.compute_infer.count for each in sizes.values()) for served, sizes in executions.items()
        }
        yield _metric("nv_inference_count", "Rows or samples of requests that succeeded",
                      {served: each.inferences for served, each in requests.items()})  # fmt: skip
        yield _metric("nv_inference_exec_count", "Network calls", calls)
        for name, what in (
            ("success", "as a whole"),
            ("queue", "waiting for the first network call"),
            ("compute_input", "reading inputs"),
            ("compute_infer", "in network calls and between them"),
            ("compute_output", "writing answers"),
        ):
            metric = "request" if name == "success" else name
            yield _metric(
                f"nv_inference_{metric}_duration_us", f"Microseconds of requests that succeeded, {what}",
                {served: getattr(each, name).ns // 1000 for served, each in requests.items()},
            )  # fmt: skip

    def _of(self, model: Served, came_s: float) -> Requests:
        found = self._requests.setdefault(model, Requests())
        found.last_ms = max(found.last_ms, int(came_s * 1000))
        return found


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _copied(counts: Any) -> Any:
    """Counts whose durations are copies too."""
    values = {each.name: getattr(counts, each.name) for each in fields(counts)}
    return replace(counts, **{name: replace(each) for name, each in values.items() if isinstance(each, Duration)})


def _metric(name: str, documentation: str, values: Mapping[Served, int]) -> Metric:
    metric = GaugeMetricFamily(name, documentation, labels=["model", "version"])
    for (model, version), value in sorted(values.items()):
        metric.add_metric([model, version], value)
    return metric
