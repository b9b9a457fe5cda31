"""How many rows trajectories of a model took lately: what the next request of that kind is taken to need."""

import threading
from collections import deque
from collections.abc import Hashable, Sequence

from cachetools import LRUCache

REMEMBERED = 256
"""Kinds of requests that are remembered: models, solvers and tolerances come from clients."""
WINDOW = 64
"""Trajectories of a kind whose rows are remembered."""
QUANTILE = 0.9
"""Of the remembered ones, this share took no more than the estimate."""
UNKNOWN = 256
"""Rows of a trajectory of which nothing is known."""


class Runs:
    """Rows of trajectories by kind of request: a window of the last ones, and a quantile of it. Any thread may use it.

    Steps of an adaptive solver are not known before they are taken; what decides about them most is the model, the
    solver and the tolerance, which make the kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: LRUCache[Hashable, deque[int]] = LRUCache(REMEMBERED)
        self._all: deque[int] = deque(maxlen=WINDOW)

    def note(self, kind: Hashable, rows: Sequence[int]) -> None:
        """Trajectories of a kind took so many rows each."""
        with self._lock:
            if kind not in self._rows:
                self._rows[kind] = deque(maxlen=WINDOW)
            self._rows[kind].extend(rows[-WINDOW:])
            self._all.extend(rows[-WINDOW:])

    def estimate(self, kind: Hashable) -> tuple[int, int]:
        """Rows that a trajectory of a kind is taken to need, and how many trajectories say so; of a kind that is not
        known, what all of them say, and 0."""
        with self._lock:
            seen = self._rows.get(kind, ())
            known = sorted(seen or self._all)
        if not known:
            return UNKNOWN, 0
        return known[min(len(known) - 1, int(QUANTILE * len(known)))], len(seen)

    @property
    def usual(self) -> int:
        """Rows that a trajectory of any kind is taken to need, a power of 2: the directory is told of it, and a number
        that changes with every request would make it busy."""
        with self._lock:
            known = sorted(self._all)
        rows = known[int(QUANTILE * (len(known) - 1))] if known else UNKNOWN
        return 1 << max(0, rows - 1).bit_length()
