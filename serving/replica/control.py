"""Loading and unloading models of a running replica, so that all replicas come to the same state.

A change is a wish with a revision. It comes from a front, or from the directory: each replica repeats the wishes it
knows in its heartbeats, and hears those of the others. So a replica that starts later, or that a front did not reach,
does the same; and of two changes that meet, every replica ends with the later one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from serving.fleet.directory import Wish
from serving.models.folders import Folder
from serving.models.loaded import LoadedModels
from serving.wire import errors

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """A wish, and the task that fulfils it; None for one that was fulfilled when the replica started."""

    wish: Wish
    task: asyncio.Task[int] | None = None


class Control:
    """Changes which models a replica holds. Make it and use it on one event loop; `wishes` on any thread.

    Args:
        tell: tells the directory how the replica is now.
    """

    def __init__(self, models: LoadedModels, tell: Callable[[], Awaitable[None]]) -> None:
        self._models, self._tell = models, tell
        self._changes: dict[str, Change] = {}
        self._started = False

    @property
    def wishes(self) -> tuple[Wish, ...]:
        """The last of each model."""
        return tuple(each.wish for each in list(self._changes.values()))

    async def start(self) -> None:
        """Load every model, but those that are wished away: what was heard until now is fulfilled with that."""
        self._started = True
        await self._models.load_all(self.unwished)

    async def change(self, wish: Wish) -> int:
        """Fulfil a wish; for how many running requests an unload waited. It is fulfilled also if the caller leaves.

        Raises:
            RequestError: ABORTED if a later one of the other kind is known; INVALID_ARGUMENT for a sampler's raw
                network; what `LoadedModels.find` and `load` raise.
        """
        self._models.check_whole(wish.name)
        folders = await self._models.find(wish.name) if wish.loaded else None
        known = self._changes.get(wish.name)
        if known is None or known.wish.revision < wish.revision:
            if not wish.loaded and not self._models.knows(wish.name):
                return 0  # and nothing is kept of a name that anybody made up
            known = self._begin(wish, folders)
        if known.wish.loaded is not wish.loaded:  # of two that wish the same, the later one does it for both
            later = "load" if known.wish.loaded else "unload"
            raise errors.aborted(f"model {wish.name!r}: a later {later} of it came first")
        return 0 if known.task is None else await asyncio.shield(known.task)

    def hear(self, wishes: Sequence[Wish]) -> None:
        """Fulfil those that are later than what is known."""
        for wish in wishes:
            known = self._changes.get(wish.name)
            if known is None or known.wish.revision < wish.revision:
                if self._started:
                    self._begin(wish, None)
                else:
                    self._changes[wish.name] = Change(wish)

    def stop(self) -> None:
        """Begin nothing more, and leave what was begun."""
        for each in self._changes.values():
            if each.task is not None:
                each.task.cancel()

    def unwished(self, name: str) -> bool:
        """Whether a model was unloaded, and is to stay so."""
        return name in self._changes and not self._changes[name].wish.loaded

    def _begin(self, wish: Wish, folders: Sequence[Folder] | None) -> Change:
        task = asyncio.create_task(self._fulfil(wish, folders))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it was logged, if nobody waits
        self._changes[wish.name] = change = Change(wish, task)
        return change

    async def _fulfil(self, wish: Wish, folders: Sequence[Folder] | None) -> int:
        what = "load" if wish.loaded else "unload"
        await self._tell()  # others hear of it, whatever becomes of this replica
        waited = 0
        try:
            if wish.loaded:
                await self._models.load(wish.name, folders or await self._models.find(wish.name))
            else:
                waited = await self._models.unload(wish.name)
        except Exception as error:
            _log.error("%s of model %s: %s", what, wish.name, error)
            await self._tell()
            raise
        await self._tell()
        _log.info("model %s: %sed%s", wish.name, what, f" after {waited} running requests" if waited else "")
        return waited
