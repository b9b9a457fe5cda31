"""Draws of laws that have no bank, such as those under a condition: made once, shared by requests, kept while there is
room.

A record of draws is a pure function of its key, so it does not matter which request makes it, and replicas agree. What
was begun for a request that left is gone on with where it stopped. Where there is a folder for them, draws are written
to it, and sought there before they are made. Replicas that need the same draws at the same time make them each.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from cachetools import LRUCache
from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.backends import Array
from serving.engine.task import External, Routine, Step
from serving.models.adapter import Tables
from serving.models.draws_on_disk import DrawsOnDisk, Form
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
        event: the shape of a draw, where it is not the model's own.
    """

    key: str
    model: str
    digest: str
    fixed: bool
    program: Callable[[Evaluating, Callable[[], object]], Routine]
    tables: Tables = field(default_factory=dict)
    event: tuple[int, ...] | None = None


class Record:
    """The draws of one law. But for `users` and what the store counts, only the engine's second thread touches it.

    Attributes:
        key: says of what they are.
        bytes: that they take, or will take, about.
        draws: None until they are made; posterior: what they make for steering.
        network_rows: that they took, or have taken so far.
        read: they were made by another process, or before this one started.
        scored: their rewards [K], by reward.
        driver: ends when the request that makes them is done or leaves; None while nobody does.
        interrupt: asks whoever makes them in the background to leave it to a request that waits; None if it is no
            work in the background.
        users: requests that use it now.
    """

    def __init__(
        self,
        key: str,
        size: int,
        form: Callable[[], Form] | None = None,
        disk: DrawsOnDisk | None = None,
        told: Callable[[str], object] = lambda result: None,
    ) -> None:
        """Args:
        form: says what its draws look like; disk: where they are kept besides, if both are there.
        told: hears how a request came by draws that were not there when it came: disk or miss.
        """
        self.key, self.bytes, self.told = key, size, told
        self._disk = None if form is None else disk
        self._form: Form | None = None if form is None or disk is None else form()
        self._sought = False
        self.read = False
        self.draws: Draws | None = None
        self.posterior: Bank | Local | None = None
        self.network_rows = 0
        self.scored: MutableMapping[Hashable, torch.Tensor] = LRUCache(REMEMBERED)
        self.driver: Future[None] | None = None
        self.interrupt: Callable[[], object] | None = None
        self.users = 0
        self._recording: Recording | None = None
        self._asked: Rows | None = None

    def seek(self) -> Generator[Step, list[Array], None]:
        """Look for the draws on disk, once; while somebody makes them there is nothing to be found."""
        form, disk = self._form, self._disk
        if form is None or disk is None or self._sought or self._recording is not None:
            return
        found = yield External("draws", 0, lambda: disk.read(self.key, form))
        self._sought = True
        if found:
            self._take(Draws(*map(torch.from_numpy, found)))
            self.read = True

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
            self._recording = self._asked = None
            self._take(stop.value)
            if self._form is not None and self._disk is not None:
                self._disk.write(self.key, self._form, stop.value)
        except Exception:
            self._recording = self._asked = None
            raise

    def _take(self, draws: Draws) -> None:
        # one layout in memory, wherever they come from: it may decide last bits of products
        parts = (each.contiguous() for each in (draws.log_snr, draws.rms, draws.residuals, draws.x0))
        self.draws = Draws(*parts)
        self.posterior = fitting(self.draws)


class DrawStore:
    """Records by key, at most `most_bytes` of them beside those in use: the least recently used ones make room.

    For any thread.

    Args:
        registry: receives the metrics.
        disk: where draws are kept besides.
    """

    def __init__(
        self, most_bytes: int = MOST_BYTES, registry: CollectorRegistry | None = None, disk: DrawsOnDisk | None = None
    ) -> None:
        self._most, self._disk = most_bytes, disk
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._lock = threading.Lock()
        self._listener: Callable[[Wanted], object] = lambda wanted: None
        registry = registry or CollectorRegistry()
        held = Gauge("tiltserve_draws_bytes", "Bytes of draws of laws without a bank", registry=registry)
        held.set_function(lambda: self.bytes)
        self._asked = Counter(
            "tiltserve_draws", "Laws of requests, by whether their draws were there: hit, disk or miss", ["result"],
            registry=registry,
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
        """Whether the draws are there, or on disk, or somebody makes them now."""
        with self._lock:
            record = self._records.get(key)
            if record is not None and (record.draws is not None or record.driver is not None):
                return True
        return self._disk is not None and self._disk.there(key)

    def listen(self, listener: Callable[[Wanted], object]) -> None:
        """Who hears of draws that are wanted; called on any thread."""
        self._listener = listener

    def want(self, wanted: Wanted) -> None:
        """Have draws made in the background, if somebody listens."""
        self._listener(wanted)

    def use(self, key: str, size: int, form: Callable[[], Form] | None = None) -> Record:
        """The record of a key, which takes so many bytes, made or not; it stays until `leave`.

        Args:
            form: says what its draws look like; None for draws that are not to be kept on disk.
        """
        with self._lock:
            if key not in self._records:
                self._records[key] = Record(key, size, form, self._disk, self._count)
            record = self._records[key]
            self._records.move_to_end(key)
            record.users += 1
            if record.draws is not None:
                self._count("hit")
            self._shrink()
            return record

    def leave(self, record: Record) -> None:
        """A request does not use a record any more."""
        with self._lock:
            record.users -= 1
            self._shrink()

    def close(self) -> None:
        """Let go of the disk."""
        if self._disk is not None:
            self._disk.close()

    def _count(self, result: str) -> None:
        self._asked.labels(result).inc()

    def _shrink(self) -> None:
        held = sum(each.bytes for each in self._records.values())
        for key, each in list(self._records.items()):
            if held <= self._most:
                return
            if not each.users:
                held -= each.bytes
                del self._records[key]
