"""Network calls for rows of many tasks: packed, run, measured, and smaller for a while where memory ran out."""

import logging
import time
import weakref
from collections.abc import Sequence

import numpy as np

from serving.backends import Array, Backend
from serving.engine.metrics import ReplicaMetrics
from serving.engine.references import Gatherer, References
from serving.engine.scheduler import Slice
from serving.engine.task import Evaluation, Kind, Network, Task
from serving.engine.turns import Key

_log = logging.getLogger(__name__)

FORGIVEN = 1000
"""Calls without running out of memory after which larger ones are tried again."""


class Calls:
    """Runs calls, one at a time, of at most `max_bucket` rows.

    Attributes:
        began, last: when the last one began, and when it ended, however it did, on time.monotonic()'s clock.
        rows: that were asked for in it.
    """

    def __init__(self, metrics: ReplicaMetrics, max_bucket: int) -> None:
        self._metrics, self._max_bucket = metrics, max_bucket
        # weak: requests make networks for rows of other lengths
        self._most = weakref.WeakKeyDictionary[Network, int]()  # rows of a call, where memory ran out
        self._fine = weakref.WeakKeyDictionary[Network, int]()  # calls since then
        self._gatherers = weakref.WeakKeyDictionary[Network, dict[str, Gatherer]]()  # by input
        self.began = self.last = time.monotonic()
        self.rows = 0

    def largest(self, key: Key) -> int:
        """Rows of a call at most; memory does not change those of one size."""
        return self._max_bucket if key.fixed else self._most.get(key.network, self._max_bucket)

    def run(self, key: Key, slices: Sequence[Slice[Task]], size: int) -> list[Array]:
        """The outputs for the slices' rows, run in one call filled up with copies of the last row."""
        start = time.monotonic()
        rows = sum(each.rows for each in slices)
        feeds = self._feeds(key.network, slices, size - rows)
        packed = self.began = time.monotonic()
        self.rows = rows
        self._metrics.spent("pack", packed - start)
        try:
            results = key.network.backend.run(feeds, key.outputs)
        finally:
            self.last = time.monotonic()
        self._metrics.spent(kind_of(slices), self.last - packed)
        self._metrics.called(key.network.name, self.last - packed, rows / size)
        self._metrics.statistics.called(key.network.served, rows, packed - start, self.last - packed)
        for name, result in zip(key.outputs, results, strict=True):
            if result.shape[:1] != (size,):
                raise ValueError(f"output {name!r}: expected {size} rows for {size}, got shape {list(result.shape)}")
        self._went_well(key.network)
        return [result[:rows] for result in results]

    def shrink(self, network: Network, size: int, error: Exception) -> bool:
        """Memory ran out in a call of so many rows: from now on at most half; False where none is smaller."""
        if size <= network.costs.sizes[0]:
            return False
        self._most[network], self._fine[network] = size // 2, 0
        _log.warning("network %s: out of memory at %d rows, going on with half: %s", network.name, size, error)
        return True

    def forget(self, backend: Backend) -> None:
        """Drop what is known of a backend that is closed."""
        for network in [network for network in self._most if network.backend is backend]:
            del self._most[network], self._fine[network]
        for network in [network for network in self._gatherers if network.backend is backend]:
            del self._gatherers[network]

    def _feeds(self, network: Network, slices: Sequence[Slice[Task]], copies: int) -> dict[str, Array]:
        """The slices' rows of each input, and copies of the last one."""
        evaluations = [current(each.owner) for each in slices]
        feeds = {}
        for name in evaluations[0].feeds:
            parts = [e.feeds[name][s.first : s.stop] for e, s in zip(evaluations, slices, strict=True)]
            if any(isinstance(each, References) for each in parts):
                gatherer = self._gatherers.setdefault(network, {}).setdefault(name, Gatherer())
                feeds[name] = gatherer.gathered(parts, copies)
            else:
                feeds[name] = _joined([each for each in parts if not isinstance(each, References)], copies)
        return feeds

    def _went_well(self, network: Network) -> None:
        if network in self._most:
            self._fine[network] += 1
            if self._fine[network] >= FORGIVEN:
                del self._most[network], self._fine[network]


def current(task: Task) -> Evaluation:
    """What a task whose rows wait or run has asked for."""
    assert task.evaluation is not None
    return task.evaluation


def kind_of(slices: Sequence[Slice[Task]]) -> Kind:
    """What a call's time counts as."""
    return "network" if any(current(each.owner).kind == "network" for each in slices) else "reward"


def _joined(parts: list[Array], copies: int) -> Array:
    if copies:
        parts.append(np.repeat(parts[-1][-1:], copies, axis=0))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]
