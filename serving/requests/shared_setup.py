"""Work that the first request for a target does for itself and for later requests."""

import contextlib
from collections.abc import Hashable, Iterator, MutableMapping
from concurrent.futures import Future, InvalidStateError
from typing import TypeVar

from serving.backends import Array
from serving.engine.task import External, Routine

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


def _after(other: "Future[None]") -> "Future[list[Array]]":
    """Ends when `other` does; cancelling it does not cancel `other`."""
    mine = Future[list[Array]]()

    def ring(_: object) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled
            mine.set_result([])

    other.add_done_callback(ring)
    return mine
