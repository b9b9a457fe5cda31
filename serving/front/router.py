"""Which replica gets a request: a pure choice from an index of the directory's list."""

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from serving.fleet.directory import ModelState, ReplicaState
from serving.wire import errors

_RNG = random.Random()


@dataclass(frozen=True)
class Route:
    """A replica, and the version of the model that it will use.

    Attributes:
        load: network rows that it has to evaluate before it is idle, as far as the caller knows.
        pinned: whether a request must name the version, because the replica itself would take a newer one.
    """

    replica: ReplicaState
    model: ModelState
    load: int = 0
    pinned: bool = False

    @property
    def takes_requests(self) -> bool:
        return self.model.state == "READY" and not self.replica.draining


@dataclass(frozen=True)
class Beside:
    """A further model that a request needs on its replica.

    Attributes:
        version: "" for the newest there.
        fingerprint: None for any.
    """

    model: str
    version: str = ""
    fingerprint: str | None = None

    def on(self, replica: ReplicaState) -> ModelState | None:
        """What the replica will use, None where it has no such model."""
        ready = [
            each
            for each in replica.models
            if each.name == self.model and self.version in ("", each.version) and each.state == "READY"
        ]
        newest = max(ready, key=lambda each: version_order(each.version), default=None)
        return newest if newest is not None and self.fingerprint in (None, newest.fingerprint) else None


@dataclass(frozen=True)
class Listed:
    """One model of the fleet.

    Attributes:
        routes: where it is listed, in any state, oldest version first.
        taking: those that take requests which name no version, see `preferred`.
    """

    routes: Sequence[Route]
    taking: Sequence[Route]

    @property
    def states(self) -> list[ModelState]:
        return [route.model for route in self.routes]


@dataclass(frozen=True)
class Index:
    """The directory's list, looked up by the name of a model; made once for each list.

    Attributes:
        models: every model by name, in order.
        any_ready: some replica takes requests for some model.
    """

    replicas: Sequence[ReplicaState] = ()
    models: Mapping[str, Listed] = field(default_factory=dict)
    any_ready: bool = False

    @classmethod
    def of(cls, replicas: Iterable[ReplicaState]) -> "Index":
        replicas = tuple(replicas)
        found: dict[str, list[Route]] = {}
        for each in replicas:
            for model in each.models:
                found.setdefault(model.name, []).append(Route(each, model, each.backlog_rows))
        models = {name: _listed(found[name]) for name in sorted(found)}
        return cls(replicas, models, any(each.taking for each in models.values()))

    def only(self, seen: Callable[[str], bool]) -> "Index":
        """The same replicas as if they held only models whose name is seen."""
        return Index.of(
            replace(each, models=tuple(model for model in each.models if seen(model.name))) for each in self.replicas
        )


def choose(
    index: Index,
    name: str,
    version: str = "",
    *,
    fingerprint: str | None = None,
    exclude: Collection[str] = (),
    beside: Sequence[Beside] = (),
    unreported: Callable[[str], int] = lambda replica_id: 0,
    rng: random.Random = _RNG,
) -> Route:
    """The less loaded of two random replicas that hold the model, each with its newest version that is warm.

    The best of two spreads load nearly as evenly as the best of all, and fronts that share one stale list do not all
    choose the same replica. Reported backlogs are up to 1.5 s old, so a front adds the rows that it has sent since.

    Args:
        version: "" for any that a replica prefers.
        fingerprint: accept only replicas whose answers have the same bytes.
        exclude: ids of replicas that were tried.
        beside: further models that the replica must have.
        unreported: rows that the caller has sent to a replica (by its id) and no report has yet.

    Raises:
        RequestError: NOT_FOUND for an unknown model or version, UNAVAILABLE while no replica can take the request.
    """
    if name in index.models and not (version or exclude or fingerprint is not None):
        usable = index.models[name].taking
    else:
        usable = ()
    if not usable:
        usable = _usable(held(index, name, version), name, fingerprint, exclude)
    if beside:
        for each in beside:
            _usable(held(index, each.model, each.version), each.model, each.fingerprint, exclude)
        usable = [route for route in usable if all(each.on(route.replica) for each in beside)]
        if not usable:
            names = ", ".join(repr(each) for each in dict.fromkeys([name, *(each.model for each in beside)]))
            raise errors.not_begun(f"models {names}: no replica that takes requests has all of them")
    drawn = rng.sample(usable, min(2, len(usable)))
    return min((replace(each, load=each.load + unreported(each.replica.id)) for each in drawn), key=attrgetter("load"))


def held(index: Index, name: str, version: str = "") -> Sequence[Route]:
    """Where the model is listed, in any state.

    Raises:
        RequestError: as `choose`, for a model or version that is not listed.
    """
    if not index.replicas:
        raise errors.not_begun(f"model {name!r}: no replica is up")
    if name not in index.models:
        raise errors.not_found(f"unknown model {name!r}, expected one of {', '.join(index.models) or '(none)'}")
    listed = index.models[name]
    found = [each for each in listed.routes if version in ("", each.model.version)]
    if not found:
        known = ", ".join(versions(listed.states))
        raise errors.not_found(f"model {name!r}: unknown version {version!r}, expected one of {known}")
    return found


def version_order(version: str) -> tuple[int, str]:
    """Sort key of versions: 2 < 10."""
    return (int(version) if version.isdecimal() else -1, version)


def versions(models: Iterable[ModelState]) -> list[str]:
    """The versions among these states, oldest first."""
    return sorted({model.version for model in models}, key=version_order)


def _listed(routes: Sequence[Route]) -> Listed:
    routes = sorted(routes, key=lambda each: version_order(each.model.version))
    return Listed(routes, preferred([each for each in routes if each.takes_requests]))


def preferred(routes: Sequence[Route]) -> Sequence[Route]:
    """Of these, oldest version first, what requests that name no version may be sent to: one of each replica.

    While a new version is brought out, it gets as large a share of the requests as there are replicas that have it, and
    only where it is warm: until then its replica goes on with the version before. A replica that has nothing warm gets
    nothing while there are others. So the first replica of a new version is not flooded, and the last one moves the
    last requests.
    """
    newest: dict[str, Route] = {}
    warm: dict[str, Route] = {}
    for each in routes:
        newest[each.replica.id] = each
        if not each.model.cold:
            warm[each.replica.id] = each
    return [
        replace(each, pinned=each.model.version != newest[key].model.version) for key, each in (warm or newest).items()
    ]


def _usable(routes: Sequence[Route], name: str, fingerprint: str | None, exclude: Collection[str]) -> Sequence[Route]:
    """The routes that may be used."""
    if not any(each.model.state == "READY" for each in routes):
        raise errors.not_begun(_why_not_ready([each.model for each in routes]))
    usable = [
        each
        for each in routes
        if each.takes_requests and each.replica.id not in exclude and fingerprint in (None, each.model.fingerprint)
    ]
    if not usable:
        raise errors.not_begun(f"model {name!r}: every replica that holds it is draining, lost or of another kind")
    return preferred(usable)


def _why_not_ready(states: Sequence[ModelState]) -> str:
    name = states[0].name
    if any(model.state == "LOADING" for model in states):
        return f"model {name!r} is loading"
    return f"model {name!r} is unavailable: {states[-1].reason or 'no reason given'}"
