"""Work that the first request for a target, or for a law, does for itself and for later requests."""

import contextlib
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from concurrent.futures import Future, InvalidStateError
from typing import TypeVar

from serving.backends import Array
from serving.engine.task import External, Routine
from serving.models.draws import Evaluating, Record, Recording

Value = TypeVar("Value")


class Pinned(MutableMapping[Hashable, Value]):
    """A request's view of a shared cache: entries it has seen stay visible to it, even if other requests evict them.

    Args:
        shared: receives what the request makes; None if no other request may use it.
    """

    def __init__(self, shared: MutableMapping[Hashable, Value] | None) -> None:
        self._shared: MutableMapping[Hashable, Value] = {} if shared is None else shared
        self._mine: dict[Hashable, Value] = {}

    def __getitem__(self, key: Hashable) -> Value:
        if key not in self._mine:
            self._mine[key] = self._shared[key]
        return self._mine[key]

    def __setitem__(self, key: Hashable, value: Value) -> None:
        self._mine[key] = self._shared[key] = value

    def __delitem__(self, key: Hashable) -> None:
        del self._mine[key]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._mine)

    def __len__(self) -> int:
        return len(self._mine)


def once(underway: MutableMapping[Hashable, "Future[None]"], key: Hashable, preparing: Routine) -> Routine:
    """Run `preparing`. If another request prepares the same key, wait for it first: `preparing` then finds its results.

    If that request fails or leaves, the next one in line takes over. For heavy tasks of one engine, which run on one
    thread.
    """
    while (other := underway.get(key)) is not None:
        yield External("setup", 0, lambda other=other: _after(other))  # type: ignore[misc]
    underway[key] = mine = Future[None]()
    try:
        return (yield from preparing)
    finally:
        del underway[key]
        mine.set_result(None)


def recorded(
    record: Record,
    begin: Callable[[], Recording],
    evaluating: Evaluating,
    background: Callable[[], object] | None = None,
) -> Routine:
    """Until the record's draws are made: by this request, from where another one stopped, or by another that is at it.

    For heavy tasks of one engine, which run on one thread.

    Args:
        evaluating: turns network rows into the engine's steps.
        background: asks this task to end; None for a request that somebody waits for. Such a one does not wait for
            work in the background, it takes it over.
    """
    missing = record.draws is None
    try:
        yield from _recorded(record, begin, evaluating, background)
    finally:
        if missing:
            record.told("disk" if record.read else "miss")


def _recorded(
    record: Record, begin: Callable[[], Recording], evaluating: Evaluating, background: Callable[[], object] | None
) -> Routine:
    while record.draws is None:
        if (other := record.driver) is not None:
            if background is None and record.interrupt is not None:
                record.interrupt()
            yield External("setup", 0, lambda other=other: _after(other))  # type: ignore[misc]
            continue
        record.driver = mine = Future[None]()
        record.interrupt = background
        try:
            yield from record.seek()
            if record.draws is None:
                yield from evaluating(record.going_on(begin))
        finally:
            record.driver = record.interrupt = None
            mine.set_result(None)


def _after(other: "Future[None]") -> "Future[list[Array]]":
    """Ends when `other` does; cancelling it does not cancel `other`."""
    mine = Future[list[Array]]()

    def ring(_: object) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled
            mine.set_result([])

    other.add_done_callback(ring)
    return mine
