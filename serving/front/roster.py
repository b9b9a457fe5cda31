"""A front's copy of the directory's list of replicas."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Mapping

from serving.access.caller import caller
from serving.fleet.directory import DirectoryClient, Listing, ReplicaState
from serving.front.router import Index

_log = logging.getLogger(__name__)
SILENT_S = 2.0
"""A replica that tells the directory nothing for so long has stopped: it reports every second."""
_REMEMBERED_S = 600.0


class Roster:
    """A copy of the directory's list, kept while the directory is down, and while one that begins anew still hears of
    replicas: until a lease later, those that it does not know are taken from the list before, but for those that have
    left.

    `refresh` reads it; `pause` waits until the next read is due, which `lose` makes now; `changed` waits for that read.

    Args:
        awaited: models without which this front is not ready at first.

    Attributes:
        leaving: this front is about to stop, and says that it is not ready.
        awaited: those of them that no replica has taken requests for yet. Once all are there, they are waited for no
            more: a front without one of them still serves the others.
        covered: for each replica by id a time (`time.monotonic`): what was sent to it until then is in its backlog.
    """

    def __init__(self, directory: DirectoryClient, every_s: float = 0.5, awaited: Collection[str] = ()) -> None:
        self._whole, self.leaving = Index(), False
        self.awaited = frozenset(awaited)
        self._seen: dict[tuple[str, ...], Index] = {}
        self.covered: Mapping[str, float] = {}
        self._last_read, self._began = 0.0, time.monotonic()
        self._directory, self._every_s = directory, every_s
        self._epoch, self._kept_until = "", 0.0
        self._lost: set[str] = set()
        self._heard: dict[str, float] = {}
        self._due = asyncio.Event()
        self._read = asyncio.Event()
        self._down = False

    @property
    def index(self) -> Index:
        """The list, by models: all that there is for the one who makes this call. A model that he has no right for is
        in none of his answers, so nothing else has to keep it from him."""
        who = caller()
        if who.sees_all:
            return self._whole
        if who.models not in self._seen:
            self._seen[who.models] = self._whole.only(who.sees)
        return self._seen[who.models]

    @property
    def serving(self) -> bool:
        """Whether requests of the one who makes this call are taken: this front is ready, and not about to stop."""
        return self.index.any_ready and not self.awaited and not self.leaving

    def lose(self, replica_id: str) -> None:
        """Takes a replica that does not answer off the list, until its next heartbeat puts it back."""
        self._lost.add(replica_id)
        self._list(self._whole.replicas)
        self._due.set()

    def silent(self, replica_id: str) -> bool:
        """Whether its heartbeat had stopped when the list was last read."""
        return self._last_read - self._heard.get(replica_id, self._last_read) > SILENT_S

    @property
    def age_s(self) -> float:
        """Seconds since the list was last read, or since there has been none to read."""
        return time.monotonic() - max(self._last_read, self._began)

    async def refresh(self) -> None:
        """Reads the list, first telling the directory what was lost; a failure leaves the old list."""
        lost, now = self._lost.copy(), time.monotonic()
        try:
            for replica_id in lost:
                await self._directory.leave(replica_id)
            listing = await self._directory.listing()
        except Exception as error:  # requests go on without the directory
            if not self._down:
                _log.warning("directory is down, going on with %d replicas: %s", len(self._whole.replicas), error)
            self._down = True
            return
        self._down = False
        # A replica that was lost during the two calls may still be in their answer.
        self._lost -= lost
        listed = [*listing.replicas, *self._kept(listing, now)]
        # A report that is new in this read was made after the read before it, which did not have it.
        known = {replica.id: replica.beat for replica in self._whole.replicas}
        self.covered = {
            each.id: self.covered.get(each.id, 0.0) if known.get(each.id) == each.beat else self._last_read
            for each in listed
        }
        recent = {key: heard for key, heard in self._heard.items() if now - heard < _REMEMBERED_S}
        self._heard = recent | {each.id: now for each in listed if known.get(each.id) != each.beat}
        self._last_read = now
        self._list(listed)
        self._read.set()
        self._read = asyncio.Event()

    def _kept(self, listing: Listing, now: float) -> list[ReplicaState]:
        """Replicas of the list before that the directory may not have heard of yet."""
        if listing.epoch != self._epoch:
            if self._epoch:
                self._kept_until = now + listing.lease_s
                self._heard = dict.fromkeys(self._heard, now)  # that nothing was heard was not their fault
            self._epoch = listing.epoch
        known = {each.id for each in listing.replicas} | listing.left
        return [each for each in self._whole.replicas if now < self._kept_until and each.id not in known]

    async def pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._due.wait(), self._every_s)
        self._due.clear()

    async def changed(self) -> None:
        await self._read.wait()

    def _list(self, replicas: Iterable[ReplicaState]) -> None:
        self._whole = Index.of(replica for replica in replicas if replica.id not in self._lost)
        self._seen = {}
        if self.awaited:
            self.awaited -= {name for name, each in self._whole.models.items() if each.taking}
