"""Which versions of which models a replica has, and the state of each."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from serving.fleet.directory import Kind, ModelState, State
from serving.models.described import pipeline_state, plain_state, sampler_state
from serving.models.dynamics import Dynamics
from serving.models.dynamics_described import dynamics_state
from serving.models.folders import Folder, Stamp, lends
from serving.models.model import RAW, Model, PlainModel, Sampler
from serving.models.pipeline import AnyModel, Opened, PartError, Pipeline, Recipe
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
        raw: the raw network of a sampler or of dynamics.
        shown: what the directory is told of it, where it is not in memory now.
    """

    model: Opened
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
        kind: what it is.
        size: its bytes in memory.
        settled: of one that is READY only with its bank: set once that is there, or could not be made.
        replaces: who leaves when it is READY.
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
    kind: Kind = "network"
    size: int = 0
    settled: asyncio.Event | None = None
    replaces: Sequence["Version"] = ()

    @property
    def lends(self) -> bool:
        """Whether it has a raw network."""
        return lends(self.kind)

    @property
    def ready(self) -> bool:
        return self.state == "READY"

    @property
    def waits(self) -> bool:
        """Whether it is in memory, and READY as soon as its bank is there."""
        return self.settled is not None and not self.settled.is_set()


@dataclass(frozen=True)
class _Look:
    """What is ready at one time.

    Attributes:
        models: the newest version of each, but for pipelines.
        newest: of each.
        bound: each pipeline with its parts, or why it has not got them.
    """

    now: object = None
    models: Mapping[str, Model] = field(default_factory=dict)
    newest: Mapping[str, AnyModel] = field(default_factory=dict)
    bound: Mapping[Version, Pipeline | PartError] = field(default_factory=dict)


class Versions:
    """The versions by model, the oldest first. Any thread may read.

    A pipeline is ready when it and its parts are; its parts are the newest versions that there are of them.

    Attributes:
        now: another object after every change.
    """

    def __init__(self, versions: Iterable[Version]) -> None:
        self._by_name: Mapping[str, tuple[Version, ...]] = {}
        self.now = object()
        self._seen = _Look()
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

    def newest(self) -> Mapping[str, AnyModel]:
        """The newest ready version of each model, and of each raw network."""
        return self._look().newest

    def models(self) -> Mapping[str, Model]:
        """As `newest`, without pipelines: what may be a reward."""
        return self._look().models

    def _look(self) -> _Look:
        now = self.now
        if self._seen.now is now:  # every request asks
            return self._seen
        found, recipes, bound = dict[str, Model](), dict[Version, Recipe](), dict[Version, Pipeline | PartError]()
        for version in self:
            if version.ready and (content := version.content) is not None:
                if content.raw is not None:
                    found[content.raw.name] = content.raw
                if isinstance(content.model, Recipe):
                    recipes[version] = content.model
                else:
                    found[version.folder.name] = content.model
        newest: dict[str, AnyModel] = {**found}
        for version, recipe in recipes.items():
            try:
                bound[version] = newest[version.folder.name] = recipe.bound(found, self._why)
            except PartError as error:
                bound[version] = error
        self._seen = look = _Look(now, found, newest, bound)
        return look

    def _why(self, name: str) -> tuple[str, bool]:
        """Why there is no such model that is ready, and whether it will soon be one."""
        if not (known := self.of(name)):
            return "expected a model of the repository, got none of that name", False
        last = known[-1]
        soon = last.state == "LOADING"
        return f"it is {last.state.lower()}{'' if soon or not last.reason else f': {last.reason}'}", soon

    def parts(self, version: Version) -> list[Version]:
        """The versions that a pipeline's requests use beside its own; none of other models."""
        bound = self._look().bound.get(version)
        if not isinstance(bound, Pipeline):
            return []
        return [self.choose(name) for name in {*bound.card.parts.values()}]

    def fault(self, version: Version) -> PartError | None:
        """Why a pipeline cannot be used, whose own folder is well."""
        bound = self._look().bound.get(version)
        return bound if isinstance(bound, PartError) else None

    def states(self) -> Iterator[ModelState]:
        """What the directory is told."""
        for version in self:
            if not isinstance(bound := self._look().bound.get(version), Pipeline | PartError):
                yield from states(version)
            elif isinstance(bound, PartError):
                state: State = "LOADING" if bound.soon else "UNAVAILABLE"
                yield ModelState(version.folder.name, version.folder.version, "pipeline", state, str(bound))
            else:
                sampler, *_ = states(self.choose(bound.sampler.name))
                yield replace(pipeline_state(bound, sampler), reason=version.reason)

    def choose(self, name: str, number: str = "", seen: Callable[[str], bool] = anything) -> Version:
        """The version that a request for a model asks for; the newest ready one where it asks for none, of a pipeline
        the newest whose parts fit.

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
        # a pipeline's newest version may not fit the parts that there are, where an older one does
        chosen = next((each for each in reversed(ready) if self.fault(each) is None), ready[-1])
        if (fault := self.fault(chosen)) is not None:
            raise errors.unavailable(f"model {name!r} is {'loading' if fault.soon else 'unavailable'}: {fault}")
        if name != chosen.folder.name and not chosen.lends:
            raise errors.not_found(f"unknown model {name!r}: {chosen.folder.name!r} has no raw network of its own")
        return chosen

    def model(self, name: str, number: str = "", seen: Callable[[str], bool] = anything) -> AnyModel:
        """As `choose`: the model itself, or the raw network where the name is that."""
        version = self.choose(name, number, seen)
        assert version.content is not None
        raw, model = version.content.raw, version.content.model
        if not isinstance(model, Recipe):
            return raw if raw is not None and name == raw.name else model
        bound = self._look().bound[version]
        assert isinstance(bound, Pipeline)  # `choose` refuses others
        return bound


def kind_of(model: Opened) -> Kind:
    """What a model is called in listings."""
    if isinstance(model, Recipe):
        return "pipeline"
    return "sampler" if isinstance(model, Sampler) else "dynamics" if isinstance(model, Dynamics) else "network"


def raw(model: Opened) -> PlainModel | None:
    """A sampler's network, or a field, as a model of its own."""
    if not isinstance(model, Sampler | Dynamics):
        return None
    name = model.name + RAW
    return PlainModel(name, model.version, replace(model.network, name=name), model.digest[:16], model.ranges)


def states(version: Version) -> Iterator[ModelState]:
    """What the directory is told of a version, but for pipelines that are ready."""
    name, number, content = version.folder.name, version.folder.version, version.content
    if not version.ready or content is None:
        yield ModelState(name, number, version.kind, version.state, version.reason)
        if version.lends:
            yield ModelState(name + RAW, number, "network", version.state, version.reason)
        return
    for state in content.shown or _shown(content):
        yield replace(state, reason=version.reason, cold=version.lacking and state.kind == "sampler")


def _shown(content: Content) -> Iterator[ModelState]:
    if isinstance(content.model, Sampler):
        yield sampler_state(content.model)
        assert content.raw is not None
        yield plain_state(content.raw)
    elif isinstance(content.model, Dynamics):
        yield dynamics_state(content.model)
        assert content.raw is not None
        yield plain_state(content.raw)
    elif isinstance(content.model, PlainModel):
        yield plain_state(content.model)
