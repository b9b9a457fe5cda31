"""Draws of laws that have no bank, such as those under a condition: made once, shared by requests, kept while there is
room.

A record of draws is a pure function of its key, so it does not matter which request makes it, and replicas agree. What
was begun for a request that left is gone on with where it stopped.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from cachetools import LRUCache
from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.engine.task import Routine
from serving.models.adapter import Tables
from steering import Rows
from steering.posteriors import Bank, Local
from steering.posteriors.draws import Draws
from steering.posteriors.residuals import fitting

MOST_BYTES = 2**30
"""Bytes of draws that are kept where nothing else is said."""
REMEMBERED = 64
"""Rewards whose scores of a law's draws are kept."""

Recording = Generator[Rows, torch.Tensor, Draws]
Evaluating = Callable[[Generator[Rows, torch.Tensor, None]], Routine]


@dataclass(frozen=True)
class Wanted:
    """Draws that a request wants for later ones, without waiting for them.

    Attributes:
        model, digest: whose they are.
        fixed: rows are evaluated in calls of one size.
        program: makes them, given what turns network rows into the engine's steps, and what asks the program to end.
        tables: what conditions refer to.
    """

    key: str
    model: str
    digest: str
    fixed: bool
    program: Callable[[Evaluating, Callable[[], object]], Routine]
    tables: Tables = field(default_factory=dict)


class Record:
    """The draws of one law. But for `users` and what the store counts, only the engine's second thread touches it.

    Attributes:
        key: says of what they are.
        bytes: that they take, or will take, about.
        draws: None until they are made; posterior: what they make for steering.
        network_rows: that they took, or have taken so far.
        scored: their rewards [K], by reward.
        driver: ends when the request that makes them is done or leaves; None while nobody does.
        interrupt: asks whoever makes them in the background to leave it to a request that waits; None if it is no
            work in the background.
        users: requests that use it now.
    """

    def __init__(self, key: str, size: int) -> None:
        self.key, self.bytes = key, size
        self.draws: Draws | None = None
        self.posterior: Bank | Local | None = None
        self.network_rows = 0
        self.scored: MutableMapping[Hashable, torch.Tensor] = LRUCache(REMEMBERED)
        self.driver: Future[None] | None = None
        self.interrupt: Callable[[], object] | None = None
        self.users = 0
        self._recording: Recording | None = None
        self._asked: Rows | None = None

    def going_on(self, begin: Callable[[], Recording]) -> Generator[Rows, torch.Tensor, None]:
        """Make the draws, from where whoever did so before has stopped."""
        if self._recording is None:
            self._recording, self.network_rows = begin(), 0
            self._asked = next(self._recording)
        assert self._asked is not None
        try:
            while True:
                reply = yield self._asked  # who leaves here leaves it as it is
                self.network_rows += len(self._asked)
                self._asked = self._recording.send(reply)
        except StopIteration as stop:
            self.draws, self.posterior = stop.value, fitting(stop.value)
            self._recording = self._asked = None
        except Exception:
            self._recording = self._asked = None
            raise


class DrawStore:
    """Records by key, at most `most_bytes` of them beside those in use: the least recently used ones make room.

    For any thread.

    Args:
        registry: receives the metrics.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, registry: CollectorRegistry | None = None) -> None:
        self._most = most_bytes
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._lock = threading.Lock()
        self._listener: Callable[[Wanted], object] = lambda wanted: None
        registry = registry or CollectorRegistry()
        held = Gauge("tiltserve_draws_bytes", "Bytes of draws of laws without a bank", registry=registry)
        held.set_function(lambda: self.bytes)
        self._asked = Counter(
            "tiltserve_draws", "Requests steered by draws of their law, by whether these were there: hit or miss",
            ["result"], registry=registry,
        )  # fmt: skip

    @property
    def bytes(self) -> int:
        """Of all records."""
        with self._lock:
            return sum(each.bytes for each in self._records.values())

    def made(self, key: str) -> bool:
        """Whether the draws are there."""
        with self._lock:
            return key in self._records and self._records[key].draws is not None

    def begun(self, key: str) -> bool:
        """Whether the draws are there, or somebody makes them now."""
        with self._lock:
            record = self._records.get(key)
            return record is not None and (record.draws is not None or record.driver is not None)

    def listen(self, listener: Callable[[Wanted], object]) -> None:
        """Who hears of draws that are wanted; called on any thread."""
        self._listener = listener

    def want(self, wanted: Wanted) -> None:
        """Have draws made in the background, if somebody listens."""
        self._listener(wanted)

    def use(self, key: str, size: int) -> Record:
        """The record of a key, which takes so many bytes, made or not; it stays until `leave`."""
        with self._lock:
            record = self._records.setdefault(key, Record(key, size))
            self._records.move_to_end(key)
            record.users += 1
            self._asked.labels("miss" if record.draws is None else "hit").inc()
            self._shrink()
            return record

    def leave(self, record: Record) -> None:
        """A request does not use a record any more."""
        with self._lock:
            record.users -= 1
            self._shrink()

    def _shrink(self) -> None:
        held = sum(each.bytes for each in self._records.values())
        for key, each in list(self._records.items()):
            if held <= self._most:
                return
            if not each.users:
                held -= each.bytes
                del self._records[key]
