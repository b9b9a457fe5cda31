"""Looks at a model repository from time to time, and loads what is new in it."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Sequence

from serving.models.folders import Folder, Stamp, scan
from serving.models.loaded import LoadedModels
from serving.models.object_store import StoreError
from serving.wire.errors import RequestError

_log = logging.getLogger(__name__)
_Seen = tuple[tuple[Folder, Stamp], ...]


class Polling:
    """For the event loop of `models`.

    Args:
        unwished: whether a model is not to be loaded.
        every_s: seconds between looks.
        fetch: makes the folder like its store; blocks. None for a folder alone.
    """

    def __init__(
        self,
        models: LoadedModels,
        unwished: Callable[[str], bool],
        every_s: float,
        fetch: Callable[[], None] | None = None,
    ) -> None:
        self._models, self._unwished, self._every_s, self._fetch = models, unwished, every_s, fetch
        self._seen: dict[str, _Seen] = {}
        self._fault = ""
        self._loading = set[asyncio.Task[None]]()

    async def keep(self) -> None:
        """Look, for ever."""
        try:
            while True:
                await asyncio.sleep(self._every_s)
                await self.look()
        finally:
            for each in self._loading:
                each.cancel()

    async def look(self) -> None:
        """Begin to load what has changed since the last look; at the first one that is everything, of which what is
        loaded already costs nothing. A fault is logged once, until another one or none comes."""
        fault = ""
        try:
            if self._fetch is not None:
                try:
                    await asyncio.to_thread(self._fetch)
                except StoreError as error:
                    fault = str(error)  # some models may be here all the same
            found = await asyncio.to_thread(self._look)
        except OSError as error:
            fault, found = f"expected a readable model repository, got: {error.strerror}", self._seen
        if fault and _words(fault) != _words(self._fault):
            _log.warning("%s; what is loaded is served on", fault)
        elif self._fault and not fault:
            _log.info("the model repository can be read again")
        before, self._seen, self._fault = self._seen, found, fault
        for name, seen in found.items():
            if before.get(name) == seen or self._unwished(name):
                continue
            if name in before:
                _log.info("model %s: the repository has other files, which are loaded", name)
            self._loading.add(loading := asyncio.create_task(self._load(name, [folder for folder, _ in seen])))
            loading.add_done_callback(self._loading.discard)

    async def _load(self, name: str, folders: Sequence[Folder]) -> None:
        try:
            await self._models.load(name, folders)
        except RequestError as error:  # the index has it too; it is tried again when files change
            _log.error("load of model %s: %s", name, error)

    def _look(self) -> dict[str, _Seen]:
        found: dict[str, list[tuple[Folder, Stamp]]] = {}
        for each in scan(self._models.root):
            with contextlib.suppress(OSError):  # it is just being written
                found.setdefault(each.name, []).append((each, each.stamp))
        return {name: tuple(each) for name, each in found.items()}


def _words(fault: str) -> str:
    """A fault without its numbers, among which are times."""
    return re.sub(r"[\d.]+", "", fault)
