"""Which replica gets a request: a pure choice from the directory's list."""

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from serving.fleet.directory import ModelState, ReplicaState
from serving.wire import errors

_RNG = random.Random()


@dataclass(frozen=True)
class Route:
    """A replica, and the version of the model that it will use.

    Attributes:
        load: network rows that it has to evaluate before it is idle, as far as the caller knows.
    """

    replica: ReplicaState
    model: ModelState
    load: int = 0


def choose(
    replicas: Iterable[ReplicaState],
    name: str,
    version: str = "",
    *,
    fingerprint: str | None = None,
    exclude: Collection[str] = (),
    unreported: Mapping[str, int] | None = None,
    rng: random.Random = _RNG,
) -> Route:
    """The less loaded of two random replicas that hold the newest ready version of the model.

    The best of two is nearly as even as the best of all, and fronts that share one stale list do not all run to the
    same replica. Reported backlogs are up to 1.5 s old, so a front adds the rows that it has sent since.

    Args:
        version: "" for the newest one.
        fingerprint: accept only replicas whose answers have the same bytes.
        exclude: ids of replicas that were tried.
        unreported: rows that the caller has sent and no report has yet, by replica id.

    Raises:
        RequestError: NOT_FOUND for an unknown model or version, UNAVAILABLE while no replica can take the request.
    """
    held = _held(list(replicas), name, version, unreported or {})
    ready = [target for target in held if target.model.state == "READY"]
    if not ready:
        raise errors.unavailable(_why_not_ready(held))
    usable = [
        target
        for target in ready
        if not target.replica.draining
        and target.replica.id not in exclude
        and fingerprint in (None, target.model.fingerprint)
    ]
    if not usable:
        raise errors.unavailable(f"model {name!r}: every replica that holds it is draining, lost or of another kind")
    newest = max(version_order(target.model.version) for target in usable)
    usable = [target for target in usable if version_order(target.model.version) == newest]
    return min(rng.sample(usable, min(2, len(usable))), key=lambda each: each.load)


def version_order(version: str) -> tuple[int, str]:
    """Sort key of versions: 2 < 10."""
    return (int(version) if version.isdecimal() else -1, version)


def listing(replicas: Iterable[ReplicaState]) -> dict[str, list[ModelState]]:
    """Every model of the fleet by name, each with its states of all replicas, oldest version first."""
    found: dict[str, list[ModelState]] = {}
    for replica in replicas:
        for model in replica.models:
            found.setdefault(model.name, []).append(model)
    return {name: sorted(found[name], key=lambda each: version_order(each.version)) for name in sorted(found)}


def versions(models: Iterable[ModelState]) -> list[str]:
    """The versions among these states, oldest first."""
    return sorted({model.version for model in models}, key=version_order)


def knows(replicas: Iterable[ReplicaState], name: str) -> bool:
    """True if some replica lists the model, in any state."""
    return any(model.name == name for replica in replicas for model in replica.models)


def any_ready(replicas: Iterable[ReplicaState]) -> bool:
    """True if some replica takes requests for some model."""
    return any(model.state == "READY" for replica in replicas if not replica.draining for model in replica.models)


def _held(replicas: list[ReplicaState], name: str, version: str, unreported: Mapping[str, int]) -> list[Route]:
    """Where the model is listed, in any state."""
    if not replicas:
        raise errors.unavailable(f"model {name!r}: no replica is up")
    named = [
        Route(replica, model, replica.backlog_rows + unreported.get(replica.id, 0))
        for replica in replicas
        for model in replica.models
        if model.name == name
    ]
    if not named:
        raise errors.not_found(f"unknown model {name!r}, expected one of {', '.join(listing(replicas)) or '(none)'}")
    held = [target for target in named if version in ("", target.model.version)]
    if not held:
        known = ", ".join(versions(target.model for target in named))
        raise errors.not_found(f"model {name!r}: unknown version {version!r}, expected one of {known}")
    return held


def _why_not_ready(held: list[Route]) -> str:
    states = [target.model for target in held]
    name = states[0].name
    if any(model.state == "LOADING" for model in states):
        return f"model {name!r} is loading"
    return f"model {name!r} is unavailable: {states[-1].reason or 'no reason given'}"
