"""The models of one replica: loads them beside each other, changes and unloads them, and reports their states."""

import asyncio
import contextlib
import itertools
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.backends import Backend, LoadError
from serving.backends.opening import Opener
from serving.engine.engine import Engine
from serving.fleet.directory import ModelState
from serving.models.artifacts import Artifacts
from serving.models.draws import DrawStore, Wanted
from serving.models.folders import Folder, readable, scan, survey
from serving.models.loader import Loader, close
from serving.models.memory import Memory, TooLargeError
from serving.models.model import Model, Sampler
from serving.models.pipeline import AnyModel, Opened, Recipe
from serving.models.preparing import Preparing
from serving.models.unloaded import Kept, unloaded
from serving.models.versions import Content, Version, Versions, anything, raw, states
from serving.wire import errors
from serving.wire.kserve import InferRequest
from serving.wire.parameters import LONGEST_REWARD

_log = logging.getLogger(__name__)
LOOK_S = 1.0
_LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600, 1200)
_AWAITS = "its bank and calibration are being made"
UNLOADED = "unloaded"
"""Why a model that was unloaded is not there."""


@dataclass(frozen=True)
class Held:
    """Models in memory for as long as a request runs.

    Attributes:
        model: what the request asks for; a pipeline's parts are in memory too.
        models: the newest of every name that may be a reward; those that the request names are in memory.
        others: that it asks for beside its own, in their order.
    """

    model: AnyModel
    models: Mapping[str, Model]
    others: Sequence[AnyModel] = ()


class LoadedModels:
    """Versions of models by name. Each sampler also lends its network to a plain model `<name>.network`, and a pipeline
    borrows those of its parts.

    Several versions of a model can be loaded at once. A request has those that were the newest when it began for as
    long as it runs; one that was replaced or unloaded leaves the memory after its last request.

    At most `most_bytes` of models are in memory (None: no bound): the least recently used of those that no request is
    using make room, and are loaded again when they are asked for. The bound counts the bytes of graph and weight files
    and of banks. It does not count what the runtime needs to compute, nor the scores and grown banks that requests
    leave with a bank; these are dropped with their model. Models that are not in memory are listed too, with their
    shapes.

    For one event loop; `states` for any thread.

    Args:
        registry: receives the metrics of loaded bytes, loads and unloads.
        opener: chooses the backend of a graph; None for ONNX Runtime on `threads` threads.
        release: closes a backend when no call runs on it any more.
        trust: names of models that are served even if their rows are not independent.
        draws: keeps those of the models' laws under conditions, within a bound of its own.
        artifacts: where replicas find what one of them has made of a model; None for nowhere.
        with_bank: a version is READY only with its bank and calibration, and what it replaces serves until then.
    """

    def __init__(
        self,
        root: Path,
        threads: int,
        most_bytes: int | None = None,
        registry: CollectorRegistry | None = None,
        opener: Opener | None = None,
        release: Callable[[Backend], None] = Backend.close,
        trust: Collection[str] = (),
        draws: DrawStore | None = None,
        artifacts: Artifacts | None = None,
        *,
        with_bank: bool = False,
    ) -> None:
        self._root, self._release, self._bounded = root, release, most_bytes is not None
        self._draws = DrawStore() if draws is None else draws
        self._loader = Loader(opener or Opener(threads), trust, self._draws, keeps=self._bounded, artifacts=artifacts)
        self._with_bank = with_bank
        self._awaiting: list[Version] = []  # those that wait for their banks
        self._counter = itertools.count(1)
        self._keyed: dict[str, Version] = {}  # those that are loaded or were begun to, until nobody uses them
        self._locks: dict[str, asyncio.Lock] = {}  # one load at a time of each model
        self._leaving: dict[Version, asyncio.Task[None]] = {}
        self._memory = Memory(
            most_bytes,
            expected=self._file_bytes,
            load=self._load,
            unload=self._unload,
            short=lambda: self._preparing.give_way(),
        )
        self._preparing = Preparing(self._memory, self._learned, self._unlearned, artifacts)
        registry = registry or CollectorRegistry()
        self._bytes = Gauge(
            "tiltserve_model_bytes", "Bytes of a model in memory: files and bank", ["model"], registry=registry
        )
        self._loads = Counter("tiltserve_model_loads", "Times a model was loaded", ["model"], registry=registry)
        self._load_failures = Counter(
            "tiltserve_model_load_failures", "Times a model could not be loaded", ["model"], registry=registry
        )
        self._load_seconds = Histogram(
            "tiltserve_model_load_seconds", "Seconds that loading a model took, its trial and its measurement included",
            ["model"], buckets=_LOAD_SECONDS, registry=registry,
        )  # fmt: skip
        self._unloads = Counter(
            "tiltserve_model_unloads", "Times a model left the memory, for another or for good", ["model"],
            registry=registry,
        )  # fmt: skip
        self._looking, self._looked, self._there = asyncio.Lock(), -math.inf, list[Folder]()
        self._first = [Version(folder, "") for folder in scan(root)]  # what there is at the start
        self._versions = Versions(self._first)

    @property
    def root(self) -> Path:
        """Of the repository."""
        return self._root

    @property
    def models(self) -> dict[str, Model]:
        """The newest ready version of each model and raw network by name, but for pipelines."""
        return {**self._versions.models()}

    def model(self, name: str, version: str = "", seen: Callable[[str], bool] = anything) -> AnyModel:
        """A version of a model, the newest ready one for "".

        Args:
            seen: whether a model exists for who asks.

        Raises:
            RequestError: NOT_FOUND or UNAVAILABLE where it cannot be used.
        """
        return self._versions.model(name, version, seen)

    def knows(self, name: str) -> bool:
        """Whether there is such a model, or raw network, in any state."""
        return bool(self._versions.of(self._versions.owner(name)))

    async def load_all(self, without: Callable[[str], bool] = lambda name: False) -> None:
        """Load every model but those; one that cannot be loaded is remembered with the reason, the others go on."""
        found: dict[str, list[Folder]] = {}
        for each in self._first:
            found.setdefault(each.folder.name, []).append(each.folder)
        for name, folders in found.items():
            async with self._lock(name):
                if any(each.state != "LOADING" for each in self._versions.of(name)):
                    continue  # loaded or unloaded meanwhile
                if without(name):
                    for each in self._versions.of(name):
                        each.state, each.reason, each.kind = "UNAVAILABLE", UNLOADED, each.folder.kind
                    self._versions.changed()
                    continue
                for fault in await self._bring_up(name, folders):
                    _log.error("model %s: %s", name, fault)
        for name in found:  # once all parts are there
            for fault in self._misfits(name):
                _log.error("model %s: %s", name, fault)

    async def there(self) -> Sequence[Folder]:
        """What lies in the repository and would be loaded, as it was a second ago at most.

        Raises:
            RequestError: FAILED_PRECONDITION where it cannot be read.
        """
        async with self._looking:  # anybody may ask, and a disk may be slow
            if time.monotonic() > self._looked + LOOK_S:
                try:
                    self._there = await asyncio.to_thread(scan, self._root)
                except OSError as error:
                    raise _unreadable(error) from None
                self._looked = time.monotonic()
            return self._there

    async def find(self, name: str) -> list[Folder]:
        """The versions to serve of a model, as they lie in the repository now, the oldest first.

        Raises:
            RequestError: NOT_FOUND where there is no such model, INVALID_ARGUMENT for a sampler's raw network.
        """
        self.check_whole(name)
        try:
            # names are compared, never joined to a path: none leads out of the repository
            found, passed = await asyncio.to_thread(survey, self._root)
        except OSError as error:
            raise _unreadable(error) from None
        if folders := [folder for folder in found if folder.name == name]:
            return folders
        why = next((f": {each}" for each in passed if each.path.relative_to(self._root).parts[0] == name), "")
        still = "; what was loaded of it is served on" if any(each.ready for each in self._versions.of(name)) else ""
        raise errors.not_found(f"unknown model {name!r}: the repository has no such folder of a model{why}{still}")

    async def load(self, name: str, folders: Iterable[Folder]) -> None:
        """Load the versions that are new or have changed, beside those that serve; then these make way. Where versions
        are READY only with their banks, it waits for these.

        Raises:
            RequestError: FAILED_PRECONDITION with what cannot be loaded; what served before serves on.
        """
        async with self._lock(name):
            faults = await self._bring_up(name, folders) or self._misfits(name)
            if idle := [task for each, task in self._leaving.items() if not self._memory.holders(each.key)]:
                await asyncio.wait(idle)  # those that nobody used are gone when this is said to be done
            awaiting = [each for each in self._awaiting if each.folder.name == name]
        for each in awaiting:
            assert each.settled is not None
            await each.settled.wait()
            if not each.ready:
                faults.append(each.reason)
        if faults:
            raise errors.failed_precondition("; ".join(faults))

    async def unload(self, name: str) -> int:
        """Refuse new requests for a model, wait for those that run, and free its memory; how many it waited for.

        A name that is not loaded is left alone.
        """
        if not self._versions.of(name):
            return 0
        async with self._lock(name):
            versions = self._versions.of(name)
            running = sum(self._memory.holders(each.key) for each in versions if each.key in self._keyed)
            for each in [each for each in self._awaiting if each.folder.name == name]:
                self._abandon(each, UNLOADED)
            for each in versions:
                self._leave(each)
                if each.state != "UNLOADING":
                    each.state, each.reason = "UNAVAILABLE", UNLOADED
            self._versions.changed()
        # a load may come meanwhile: it has versions of its own
        if leaving := [self._leaving[each] for each in versions if each in self._leaving]:
            await asyncio.wait(leaving)
        return running

    @contextlib.asynccontextmanager
    async def holding(
        self,
        request: InferRequest,
        seen: Callable[[str], bool] = anything,
        others: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator[Held]:
        """Within, the models that a request can touch are in memory; it waits for those that are not.

        Args:
            seen: whether a model exists for who asks; others are not loaded for it.
            others: names and versions that it asks for beside its own model.

        Raises:
            RequestError: NOT_FOUND or UNAVAILABLE where the model cannot be used, UNAVAILABLE with the reason why one
                cannot be loaded, RESOURCE_EXHAUSTED where they do not fit into the memory together.
        """
        async with contextlib.AsyncExitStack() as stack:
            while True:
                touched, now = self._touched(request, seen, others), self._versions.now
                try:
                    await stack.enter_async_context(self._memory.holding({each.key for each in touched}))
                except TooLargeError as error:
                    raise errors.exhausted(f"model {request.model!r}: {error}") from None
                except Exception as error:
                    for each in touched:  # its new files may be just being loaded
                        async with self._lock(each.folder.name):
                            pass
                    if touched == self._touched(request, seen, others):
                        cause = str(error) if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
                        raise errors.unavailable(f"model {request.model!r} cannot be loaded again: {cause}") from error
                if now is self._versions.now or touched == self._touched(request, seen, others):
                    break
                await stack.aclose()  # one was replaced meanwhile
            models = self._versions.models()
            if seen is not anything:
                models = {name: each for name, each in models.items() if seen(name)}
            beside = [self._versions.model(*each, seen) for each in others]
            yield Held(self._versions.model(request.model, request.version, seen), models, beside)

    def states(self) -> tuple[ModelState, ...]:
        """Every version for the directory, raw networks of samplers included."""
        return tuple(self._versions.states())

    async def prepare(self, engine: Engine) -> None:
        """Make missing banks and calibrations, one model after another, while requests leave memory for it."""
        await self._preparing.all(engine)

    async def keep_prepared(self, engine: Engine) -> None:
        """As `prepare`, also of models that are loaded later, and draws that requests want for later ones; for ever."""
        loop = asyncio.get_running_loop()
        self._draws.listen(lambda wanted: loop.call_soon_threadsafe(self._want, wanted))
        await self._preparing.keep(engine)

    def _want(self, wanted: Wanted) -> None:
        """Have draws made of a model, unless it has gone or its files have changed."""
        for version in self._versions.of(wanted.model):
            model = None if version.content is None else version.content.model
            if version.ready and isinstance(model, Sampler) and model.digest == wanted.digest:
                self._preparing.want(version, wanted)
                return

    def close(self) -> None:
        """Close every backend in memory, once nothing runs on them."""
        for leaving in self._leaving.values():
            leaving.cancel()
        for key in self._memory.loaded:
            if (content := self._keyed[key].content) is not None:
                close(content.model)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def check_whole(self, name: str) -> None:
        """Refuse a sampler's raw network, which is no model of its own: INVALID_ARGUMENT."""
        owner = self._versions.owner(name)
        if owner != name and any(each.lends or each.folder.lends for each in self._versions.of(owner)):
            raise errors.invalid(
                f"model {name!r}: expected {owner!r}, whose raw network it is: it is loaded and unloaded with it"
            )

    def _misfits(self, name: str) -> list[str]:
        """Why a pipeline cannot be used, whose own folder is well."""
        faults = (self._versions.fault(each) for each in self._versions.of(name))
        return [readable(str(fault)) for fault in faults if fault is not None and not fault.soon]

    async def _bring_up(self, name: str, folders: Iterable[Folder]) -> list[str]:
        """Load what is new or has changed of a model, the newest first, and let go of the rest if all of that went
        well; what did not."""
        wanted = {each.version: each for each in folders}
        now = {each.folder.version: each for each in self._versions.of(name)}
        faults = []
        for number, folder in reversed(wanted.items()):
            if await self._awaited(folder):
                continue
            before = now.get(number)
            if before is None or not before.ready:
                before, now[number] = None, self._enlisted(folder)
                self._versions.put(name, now.values())
            fault = await self._opened(now[number]) if before is None else await self._renewed(before, folder, now)
            if fault:
                faults.append(fault)
        if not faults:
            gone = [now[number] for number in now.keys() - wanted.keys()]
            if awaiting := [each for each in now.values() if each.waits and each not in gone]:
                for each in awaiting:
                    each.replaces = tuple({*each.replaces, *gone})
                gone = [each for each in gone if each.waits]
            for each in gone:
                if each.waits:
                    self._abandon(each, "another version is wanted")
                self._leave(each)
            kept = [each for each in now.values() if each not in gone or each in self._leaving]
            self._versions.put(name, kept)
        return faults

    async def _awaited(self, folder: Folder) -> bool:
        """Whether these very files wait for their bank. What waits and has other files is not waited for any more."""
        for each in [each for each in self._awaiting if each.folder == folder]:
            with contextlib.suppress(OSError):  # loading says why
                if each.stamp == await asyncio.to_thread(lambda: folder.stamp):
                    return True
            self._abandon(each, "its files have changed since it was loaded")
        return False

    def _enlisted(self, folder: Folder) -> Version:
        key = f"{folder.name}/{folder.version}"
        if key in self._keyed:
            key += f" ({next(self._counter)})"
        self._keyed[key] = version = Version(folder, key)
        return version

    async def _opened(self, version: Version) -> str:
        """Load a version for the first time, which makes it ready; why it cannot be."""
        try:
            async with self._memory.holding([version.key]):
                if self._with_bank and version.lacking:
                    version.reason, version.settled = _AWAITS, asyncio.Event()
                else:
                    version.state = "READY"
                self._versions.changed()
        except Exception as error:
            version.reason = _why(version.folder, error)
        if version.waits:
            self._awaiting.append(version)
            self._preparing.want(version)
            return ""
        if not version.ready:
            version.state = "UNAVAILABLE"
            self._discard_soon(version)
        elif version.lacking:
            self._preparing.want(version)
        return version.reason

    async def _renewed(self, before: Version, folder: Folder, now: dict[str, Version]) -> str:
        """Load a version whose files have changed beside what was loaded of them, which then makes way; why not."""
        try:
            if before.folder == folder and before.stamp == await asyncio.to_thread(lambda: folder.stamp):
                before.reason = ""
                return ""
        except OSError as error:
            before.reason = f"its files have changed since it was loaded: {_why(folder, error)}"
            return before.reason
        version = self._enlisted(folder)
        if fault := await self._opened(version):
            before.reason = f"its files have changed since it was loaded, and cannot be loaded: {fault}"
            return fault
        if version.identity == before.identity:  # written again, with the same content
            before.stamp, before.reason = version.stamp, ""
            if version.waits:
                self._abandon(version, UNLOADED)
            self._leave(version)
        elif version.waits:
            version.replaces = (before,)
            before.reason = "its files have changed since it was loaded, and are served once their bank is there"
        else:
            now[folder.version] = version
            self._versions.put(folder.name, now.values())
            self._leave(before)
        return ""

    def _settle(self, version: Version) -> None:
        """What waited for its bank takes over from what it replaces."""
        assert version.settled is not None
        self._awaiting.remove(version)
        version.state, version.reason = "READY", ""
        name, number = version.folder.name, version.folder.version
        listed = self._versions.of(name)
        if version not in listed:  # its number is that of what it replaces
            self._versions.put(name, [*(each for each in listed if each.folder.version != number), version])
        for each in version.replaces:
            self._leave(each)
        version.replaces = ()
        self._versions.changed()
        version.settled.set()

    def _abandon(self, version: Version, why: str) -> None:
        """Let go of what waits for its bank."""
        assert version.settled is not None
        self._awaiting.remove(version)
        version.state, version.reason, version.replaces = "UNAVAILABLE", why, ()
        version.settled.set()
        self._versions.changed()
        self._preparing.give_way(version)
        self._discard_soon(version)

    def _unlearned(self, version: Version, error: Exception) -> None:
        """A version's bank or calibration could not be made."""
        if version.waits:
            why = readable(f"{version.folder.root}: its bank and calibration could not be made: {error}")
            for each in version.replaces:
                if each.folder.version == version.folder.version:
                    each.reason = f"its files have changed since it was loaded, and cannot be loaded: {why}"
            self._abandon(version, why)

    def _leave(self, version: Version) -> None:
        """No new request uses a version that is ready; it leaves the memory after the last one."""
        if version.ready:
            running = self._memory.holders(version.key)
            _log.info("model %s leaves; %d requests that use it run on", version.key, running)
            version.state, version.reason = "UNLOADING", "its last requests are running"
            self._versions.changed()
            self._preparing.give_way(version)
            self._discard_soon(version)

    def _discard_soon(self, version: Version) -> None:
        self._leaving[version] = leaving = asyncio.create_task(self._discard(version))
        leaving.add_done_callback(lambda _: self._leaving.pop(version, None))

    async def _discard(self, version: Version) -> None:
        await self._memory.discard(version.key)
        del self._keyed[version.key]
        version.content = version.kept = None
        self._versions.changed()
        if version.state == "UNLOADING":
            version.state, version.reason = "UNAVAILABLE", UNLOADED
            name = version.folder.name
            listed = self._versions.of(name)
            if version in listed and any(each.ready for each in listed):  # another version took its place
                self._versions.put(name, [each for each in listed if each is not version])
        self._loader.forget(len(self._keyed))

    async def _learned(self, version: Version, model: Sampler) -> None:
        """A version in memory has a bank and a calibration that were made here."""
        if self._bounded:
            version.kept = await asyncio.to_thread(Kept, model)
        self._memory.resize(version.key, self._measured(version, model))
        if version.waits:
            async with self._lock(version.folder.name):  # not while versions of it are being loaded
                if version.waits:
                    self._settle(version)

    def _touched(
        self, request: InferRequest, seen: Callable[[str], bool], others: Sequence[tuple[str, str]] = ()
    ) -> set[Version]:
        """The versions a request can touch: of its own models those it asks for, and the newest of every model named
        in its reward, events or coordinate, which are no longer than `LONGEST_REWARD`, as are names in its arguments.
        """
        said = [
            each for key, each in request.parameters.items()
            if (key.startswith("reward") or key in ("events", "coordinate")) and isinstance(each, str)
        ]  # fmt: skip
        texts = [each for each in said if len(each) <= LONGEST_REWARD]
        words = {word for text in texts for pattern in (r"[\w.-]+", r"\w+") for word in re.findall(pattern, text)}
        named = {
            ready[-1]
            for word in words
            if (ready := [each for each in self._versions.of(word) if each.ready]) and seen(word)
        }
        mine = [self._versions.choose(*each, seen) for each in ((request.model, request.version), *others)]
        return {*mine, *(part for each in mine for part in self._versions.parts(each)), *named}

    def _load(self, key: str) -> int:
        """Bring a version into memory; its bytes. Runs on a thread."""
        version = self._keyed.get(key)
        if version is None:
            raise LoadError(f"{key} was unloaded")
        name, began = version.folder.name, time.monotonic()
        failures = self._load_failures.labels(name)  # there at 0, or its first growth would not be seen
        try:
            model = self._loader.open(version)
        except Exception:
            failures.inc()
            raise
        self._load_seconds.labels(name).observe(time.monotonic() - began)
        self._versions.changed()
        self._loads.labels(name).inc()
        return self._measured(version, model)

    def _unload(self, key: str) -> None:
        """Drop a version; its memory is free when the last call that ran on it is over."""
        version = self._keyed[key]
        assert version.content is not None
        model = version.content.model
        if isinstance(model, Recipe):
            model.encodings.clear()  # its tokenizers stay: they are small
        else:
            gone = unloaded(model)
            shown = tuple(states(version))
            for network in model.networks:
                self._release(network.backend)
            version.content = Content(gone, raw(gone), shown)
        self._versions.changed()
        self._count(version, 0)
        self._unloads.labels(version.folder.name).inc()

    def _file_bytes(self, key: str) -> int:
        """The estimated size of a version that was never loaded."""
        files = self._keyed[key].folder.graph.parent.rglob("*")  # the graph is not read for that
        return sum(file.stat().st_size for file in files if file.is_file())

    def _measured(self, version: Version, model: Opened) -> int:
        """The bytes of a version in memory, which the metrics show too."""
        folder = version.folder
        size = sum(file.stat().st_size for file in (*folder.files, *folder.others) if file != folder.programs)
        if isinstance(model, Sampler) and model.known.cloud is not None:
            size += model.known.cloud.samples.nbytes
        self._count(version, size)
        return size

    def _count(self, version: Version, size: int) -> None:
        """Show the bytes of a model, all of its versions in memory together."""
        version.size, name = size, version.folder.name
        same = (each for each in list(self._keyed.values()) if each.folder.name == name)
        self._bytes.labels(name).set(sum(each.size for each in same))


def _unreadable(error: OSError) -> errors.RequestError:
    return errors.failed_precondition(f"expected a readable model repository, got: {error.strerror}")


def _why(folder: Folder, error: Exception) -> str:
    """Why a version cannot be loaded, on one line."""
    if isinstance(error, LoadError | TooLargeError):
        return readable(str(error))
    if isinstance(error, OSError):
        return readable(f"{error.filename or folder.root}: expected to read it, got: {error.strerror}")
    _log.error("loading %s", folder.name, exc_info=error)
    return readable(f"{folder.root}: {type(error).__name__}: {error}")
