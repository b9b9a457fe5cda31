"""How many rows trajectories of a model took lately: what the next request of that kind is taken to need."""

import threading
from collections import deque
from collections.abc import Hashable, Sequence

from cachetools import LRUCache

REMEMBERED = 256
"""Kinds of requests that are remembered: models, solvers and tolerances come from clients."""
WINDOW = 64
"""Requests of a kind that are remembered."""
QUANTILE = 0.9
"""Of the remembered ones, this share took no more than the estimate."""
UNKNOWN = 256
"""Rows of a trajectory of which nothing is known."""


class Runs:
    """Rows of trajectories by kind of request: a window of the last ones, and a quantile of it. Any thread may use it.

    Steps of an adaptive solver are not known before they are taken. What decides about them most makes the kind: the
    solver, the tolerance and the span of time. A request counts once, however many trajectories it has; and one of
    another kind does not count, or a single long trajectory would have everybody else's requests refused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: LRUCache[Hashable, deque[int]] = LRUCache(REMEMBERED)
        self._all: deque[int] = deque(maxlen=WINDOW)

    def note(self, kind: Hashable, rows: Sequence[int]) -> None:
        """The trajectories of a request took so many rows each."""
        with self._lock:
            if kind not in self._rows:
                self._rows[kind] = deque(maxlen=WINDOW)
            taken = _quantile(rows)
            self._rows[kind].append(taken)
            self._all.append(taken)

    def estimate(self, kind: Hashable) -> tuple[int, int]:
        """Rows that a trajectory of a kind is taken to need, and how many requests say so; `UNKNOWN` and 0 for a kind
        that was not seen yet."""
        with self._lock:
            seen = [*self._rows.get(kind, ())]
        return (_quantile(seen), len(seen)) if seen else (UNKNOWN, 0)

    @property
    def usual(self) -> int:
        """Rows that a trajectory of any kind is taken to need, a power of 2: the directory is told of it, and a number
        that changes with every request would make it busy."""
        with self._lock:
            known = sorted(self._all)
        rows = known[len(known) // 2] if known else UNKNOWN
        return 1 << max(0, rows - 1).bit_length()


def _quantile(rows: Sequence[int]) -> int:
    known = sorted(rows)
    return known[min(len(known) - 1, int(QUANTILE * len(known)))]
