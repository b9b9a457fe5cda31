"""The versions of a model as all replicas have them together."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from serving.fleet.directory import ModelState, State
from serving.front.router import Index, Route, version_order

BEST_FIRST: Sequence[State] = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")


@dataclass(frozen=True)
class Summary:
    """One version of a model.

    Attributes:
        state: the best of all replicas; READY where one takes requests.
        reason: why it is not READY, or not everywhere; empty where it is.
        ready: replicas that take requests for it.
        unequal: what is to say of replicas whose answers differ, see `unequal`.
    """

    name: str
    version: str
    kind: str
    state: State
    reason: str
    ready: int
    unequal: str = ""


def summaries(index: Index, name: str) -> list[Summary]:
    """Every version of a model that some replica lists, oldest first."""
    routes = index.models[name].routes
    found = {route.model.version: list[Route]() for route in routes}
    for route in routes:
        found[route.model.version].append(route)
    replicas = len([each for each in index.replicas if not each.draining])
    return [_summary(found[version], replicas) for version in sorted(found, key=version_order)]


def _summary(routes: Sequence[Route], replicas: int) -> Summary:
    states = [_state(each) for each in routes]
    best = min(states, key=lambda each: BEST_FIRST.index(each.state))
    ready = sum(each.state == "READY" for each in states)
    partly = len({each.state for each in states}) > 1 or len(states) < replicas
    reason = "; ".join(_counted(states, max(replicas, len(states)))) if partly else best.reason
    told = unequal(routes)
    reason = "; ".join(filter(None, (reason, told)))
    return Summary(best.name, best.version, best.kind, best.state, reason, ready, told)


def unequal(routes: Sequence[Route]) -> str:
    """What is to say of replicas whose answers have other bytes than each other's; empty where all are equal.

    They serve, but a request whose replica is lost waits for an equal one. Those that still prepare a model are not
    meant: they become equal.
    """
    ready = [each for each in routes if each.takes_requests and not each.model.cold]
    prints = Counter(each.model.fingerprint for each in ready)
    if len(prints) < 2:
        return ""
    kinds = sorted({(each.replica.threads, each.model.backend, each.model.device) for each in ready})
    told = ", ".join(f"{backend} {device} with {threads} threads" for threads, backend, device in kinds)
    return f"{len(prints)} fingerprints on {len(ready)} replicas, whose answers differ in bytes: {told}"


def _state(route: Route) -> ModelState:
    """What a replica has, as a client sees it."""
    if route.replica.draining and route.model.state == "READY":
        return replace(route.model, state="UNAVAILABLE", reason="its replica is stopping")
    return route.model


def _counted(states: Sequence[ModelState], replicas: int) -> Iterator[str]:
    """How many replicas are in which state, and why."""
    counts = Counter(each.state for each in states)
    for state in BEST_FIRST:
        if counts[state]:
            why = next((each.reason for each in states if each.state == state and each.reason), "")
            yield f"{state} on {counts[state]} of {replicas} replicas" + (f": {why}" if why else "")
    if missing := replicas - len(states):
        yield f"not loaded on {missing} of {replicas} replicas"
