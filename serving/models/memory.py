"""Which of many things are in memory: the least recently used ones make room for those that are asked for."""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection

from pydantic import ByteSize


class TooLargeError(Exception):
    """Things that never fit into the memory; one line."""


class Memory:
    """Things by name, at most `bound` bytes of them (None: no bound). For one event loop.

    Things that a caller holds stay in memory. Request all names in one call: a caller never holds some while it waits
    for others, and waiters are FIFO, so callers cannot deadlock.

    Args:
        expected: the bytes of a thing that was never loaded.
        load: brings a thing in and gives its bytes; runs on a thread, once at a time for each name.
        unload: drops a thing.
        short: called when more memory is needed and everything in it is held.
    """

    def __init__(
        self,
        bound: int | None,
        *,
        expected: Callable[[str], int],
        load: Callable[[str], int],
        unload: Callable[[str], None],
        short: Callable[[], None] = lambda: None,
    ) -> None:
        self._bound, self._expected, self._load, self._unload = bound, expected, load, unload
        self._on_short = short
        self._sizes: OrderedDict[str, int] = OrderedDict()  # what is loaded, the least recently used first
        self._measured: dict[str, int] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._held: Counter[str] = Counter()
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._short = False

    @property
    def loaded(self) -> dict[str, int]:
        """Bytes by name of what is loaded, the least recently used first."""
        return dict(self._sizes)

    @property
    def total(self) -> int:
        """Bytes of what is loaded and of what is being loaded."""
        return sum(self._sizes.values()) + sum(map(self.size, self._loading))

    def size(self, name: str) -> int:
        """The bytes of a thing: measured if it was loaded once, else expected."""
        return self._measured[name] if name in self._measured else self._expected(name)

    def resize(self, name: str, size: int) -> None:
        """A loaded thing has become larger or smaller."""
        self._measured[name] = self._sizes[name] = size
        self._shrink()

    def holders(self, name: str) -> int:
        """Callers that hold a thing now."""
        return self._held[name]

    async def discard(self, name: str) -> None:
        """Drop a thing for good, as soon as nobody holds it and it is not being loaded."""
        while self._held[name] or name in self._loading:
            await self._changed.wait()
        if name in self._sizes:
            del self._sizes[name]
            self._unload(name)
        self._measured.pop(name, None)
        del self._held[name]
        self._notify()

    @contextlib.asynccontextmanager
    async def holding(self, names: Collection[str]) -> AsyncIterator[None]:
        """All of these are loaded while the context is open.

        Raises:
            TooLargeError: they are larger than the bound together.
            Exception: what `load` raised.
        """
        names = sorted(set(names))
        await self._take(names)
        try:
            yield
        finally:
            self._let_go(names)

    async def _take(self, names: Collection[str]) -> None:
        if not self._short and all(name in self._sizes for name in names):
            self._held.update(names)
        else:
            async with self._turn:
                self._held.update(names)
                try:
                    for name in names:
                        await self._bring(name, names)
                    self._check(names)
                except BaseException:
                    self._let_go(names)
                    self._shrink()
                    raise
        for name in names:
            self._sizes.move_to_end(name)

    async def _bring(self, name: str, names: Collection[str]) -> None:
        if name in self._sizes:
            return
        if name not in self._loading:
            await self._make_room(name, names)
            # a task of its own: a load that has begun is accounted for, even if its first caller leaves
            self._loading[name] = asyncio.create_task(self._load_one(name))
            self._loading[name].add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._loading[name])

    async def _make_room(self, name: str, names: Collection[str]) -> None:
        if self._bound is None:
            return
        while self.total + self.size(name) > self._bound:
            self._check(names)
            if self._drop_one():
                continue
            self._short = True
            try:
                self._on_short()
                await self._changed.wait()
            finally:
                self._short = False

    def _check(self, names: Collection[str]) -> None:
        together = sum(map(self.size, names))
        if self._bound is not None and together > self._bound:
            raise TooLargeError(
                f"expected at most {ByteSize(self._bound).human_readable()} of models in memory, "
                f"got {' and '.join(names)} of {ByteSize(together).human_readable()}"
            )

    async def _load_one(self, name: str) -> None:
        try:
            size = await asyncio.to_thread(self._load, name)
        finally:
            del self._loading[name]
            self._notify()
        self._measured[name] = self._sizes[name] = size
        self._shrink()

    def _shrink(self) -> None:
        """Drop idle things until the bound holds, after one became larger than expected."""
        while self._bound is not None and self.total > self._bound and self._drop_one():
            pass

    def _drop_one(self) -> bool:
        """Drop the least recently used idle thing; False if there is none."""
        idle = next((name for name in self._sizes if not self._held[name]), None)
        if idle is not None:
            del self._sizes[idle]
            self._unload(idle)
        return idle is not None

    def _let_go(self, names: Collection[str]) -> None:
        self._held.subtract(names)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
