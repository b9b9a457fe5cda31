"""Which versions of which models a replica has, and the state of each."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from serving.fleet.directory import ModelState, State
from serving.models.described import plain_state, sampler_state
from serving.models.folders import Folder, Stamp
from serving.models.model import RAW, Model, PlainModel, Sampler
from serving.models.policy import order
from serving.models.unloaded import Kept
from serving.wire import errors


def anything(name: str) -> bool:
    """Every model exists for who asks."""
    return True


@dataclass(frozen=True)
class Content:
    """A version that was loaded.

    Attributes:
        raw: a sampler's raw network.
        shown: what the directory is told of it, where it is not in memory now.
    """

    model: Model
    raw: PlainModel | None = None
    shown: tuple[ModelState, ...] | None = None


@dataclass(eq=False)
class Version:
    """One version of one model, as its files were when it was loaded: new files of the same number are another one.

    Attributes:
        key: its name in memory, which no other version ever has.
        state: READY from its first load on, also while idle and not in memory; UNLOADING while its last requests run.
        reason: why it is not READY; of one that is, why its newer files are not served.
        content: None before it was loaded and after it was unloaded. It is replaced as a whole: heartbeats read it on a
            thread of their own.
        stamp, identity: of the files that it was loaded from, and of what is in them.
        kept: what it needs to come back into memory as it was.
        lacking: its bank or calibration is missing and can be made.
        sampler: it has a raw network.
        size: its bytes in memory.
    """

    folder: Folder
    key: str
    state: State = "LOADING"
    reason: str = ""
    content: Content | None = None
    stamp: Stamp | None = None
    identity: tuple[str, ...] = ()
    kept: Kept | None = None
    lacking: bool = False
    sampler: bool = False
    size: int = 0

    @property
    def ready(self) -> bool:
        return self.state == "READY"


class Versions:
    """The versions by model, the oldest first. Any thread may read.

    Attributes:
        now: another object after every change.
    """

    def __init__(self, versions: Iterable[Version]) -> None:
        self._by_name: Mapping[str, tuple[Version, ...]] = {}
        self.now = object()
        self._newest: tuple[object, Mapping[str, Model]] = None, {}
        for each in versions:
            self.put(each.folder.name, [*self.of(each.folder.name), each])

    def __iter__(self) -> Iterator[Version]:
        return (version for versions in self._by_name.values() for version in versions)

    def of(self, name: str) -> tuple[Version, ...]:
        """Those of one model, in any state; none where there is no such model."""
        return self._by_name.get(name, ())

    def put(self, name: str, versions: Iterable[Version]) -> None:
        """These are the versions of a model now."""
        inside = tuple(sorted(versions, key=lambda each: order(each.folder.version)))
        changed = {**self._by_name, name: inside}
        self._by_name = {each: changed[each] for each in sorted(changed)}
        self.changed()

    def changed(self) -> None:
        """Say that some version has another state or content."""
        self.now = object()

    def owner(self, name: str) -> str:
        """The model that a name belongs to: a sampler lends its network to NAME.network."""
        return name if name in self._by_name else name.removesuffix(RAW)

    def newest(self) -> Mapping[str, Model]:
        """The newest ready version of each model, and of each raw network."""
        now, (then, known) = self.now, self._newest
        if then is now:  # every request asks
            return known
        found: dict[str, Model] = {}
        for version in self:
            if version.ready and (content := version.content) is not None:
                if content.raw is not None:
                    found[content.raw.name] = content.raw
                found[version.folder.name] = content.model
        self._newest = now, found
        return found

    def choose(self, name: str, number: str = "", seen: Callable[[str], bool] = anything) -> Version:
        """The version that a request for a model asks for; the newest ready one where it asks for none.

        Args:
            seen: whether a model exists for who asks.

        Raises:
            RequestError: NOT_FOUND for an unknown model or version, UNAVAILABLE for one that is not ready.
        """
        known = self.of(self.owner(name)) if seen(name) else ()
        if not known:
            names = ", ".join(sorted(filter(seen, self.newest()))) or "(none)"
            raise errors.not_found(f"unknown model {name!r}, expected one of {names}")
        found = [each for each in known if number in ("", each.folder.version)]
        if not found:
            versions = ", ".join(each.folder.version for each in known)
            raise errors.not_found(f"model {name!r}: unknown version {number!r}, expected one of {versions}")
        ready = [each for each in found if each.ready]
        if not ready:
            last = found[-1]
            raise errors.unavailable(f"model {name!r} is {last.state.lower()}: {last.reason or 'not loaded yet'}")
        if name != ready[-1].folder.name and not ready[-1].sampler:
            raise errors.not_found(f"unknown model {name!r}: {ready[-1].folder.name!r} has no raw network of its own")
        return ready[-1]

    def model(self, name: str, number: str = "", seen: Callable[[str], bool] = anything) -> Model:
        """As `choose`: the model itself, or the raw network where the name is that."""
        version = self.choose(name, number, seen)
        assert version.content is not None
        raw = version.content.raw
        return raw if raw is not None and name == raw.name else version.content.model


def raw(model: Model) -> PlainModel | None:
    """A sampler's network as a model of its own."""
    if not isinstance(model, Sampler):
        return None
    name = model.name + RAW
    return PlainModel(name, model.version, replace(model.network, name=name), model.digest[:16], model.ranges)


def states(version: Version) -> Iterator[ModelState]:
    """What the directory is told of a version."""
    name, number, content = version.folder.name, version.folder.version, version.content
    if not version.ready or content is None:
        yield ModelState(name, number, "sampler" if version.sampler else "network", version.state, version.reason)
        if version.sampler:
            yield ModelState(name + RAW, number, "network", version.state, version.reason)
        return
    for state in content.shown or _shown(content):
        yield replace(state, reason=version.reason)


def _shown(content: Content) -> Iterator[ModelState]:
    if isinstance(content.model, Sampler):
        yield sampler_state(content.model)
        assert content.raw is not None
        yield plain_state(content.raw)
    else:
        yield plain_state(content.model)
