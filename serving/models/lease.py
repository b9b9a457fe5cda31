"""Who makes a thing that several replicas need: one holds its lease, the others wait, and a dead one does not block.

A lease is a file whose content its holder changes every few seconds. Whoever waits needs no clock but its own: a file
that did not change for `LEASE_S` seconds is that of a holder who has died. Two may still make the same thing, where
leases are taken at the same moment or a holder was stopped and goes on. That costs work and harms nobody, since what
they make is the same.
"""

import contextlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable

from serving.models.shelf import Shelf

LEASE_S = 15.0
"""Seconds after the last change of a lease that its holder is taken for dead."""
_MOST = 128
_log = logging.getLogger(__name__)


class Lease:
    """One that is held, until `leave`; a thread renews it."""

    def __init__(self, shelf: Shelf, name: str, holder: str, lease_s: float) -> None:
        self._shelf, self._name, self._holder = shelf, name, holder
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=[lease_s / 5], name="lease", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Let others have it. Waits for the disk."""
        self._left.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._mine():
                self._shelf.remove(self._name)

    def _renew(self, every_s: float) -> None:
        for count in itertools.count(1):
            if self._left.wait(every_s):
                return
            try:
                if not self._mine():  # it was taken for dead
                    return
                self._shelf.put(self._name, f"{self._holder} {count}".encode())
            except OSError as error:
                _log.info("lease %s: not renewed: %s", self._name, error)

    def _mine(self) -> bool:
        return (self._shelf.get(self._name, _MOST) or b"").startswith(self._holder.encode())


class Leases:
    """Takes leases. For any thread.

    Args:
        lease_s: see `LEASE_S`. clock: counts seconds.
    """

    def __init__(self, shelf: Shelf, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._shelf, self._lease_s, self._clock = shelf, lease_s, clock
        self._seen: dict[str, tuple[bytes | None, float]] = {}  # what a lease of others said, and since when

    def take(self, name: str) -> Lease | None:
        """The lease of a thing; None where somebody who lives has it.

        Raises:
            OSError: the shelf cannot be written to.
        """
        holder = uuid.uuid4().hex
        if self._shelf.create(name, f"{holder} 0".encode()):
            return self._taken(name, holder)
        now, said = self._clock(), self._shelf.get(name, _MOST)
        before, since = self._seen.get(name, (None, now))
        if name not in self._seen or said != before:
            self._seen[name] = said, now
            return None
        if now - since < self._lease_s:
            return None
        _log.warning("lease %s: its holder did not renew it for %g s, and is taken for dead", name, self._lease_s)
        self._shelf.put(name, f"{holder} 0".encode())
        return self._taken(name, holder)

    def _taken(self, name: str, holder: str) -> Lease:
        self._seen.pop(name, None)
        return Lease(self._shelf, name, holder, self._lease_s)
