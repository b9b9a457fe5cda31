"""What a front tells of its fleet, for lists as a directory may give them."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from serving.fleet.directory import Listing, LocalDirectory, ModelState, ReplicaState, Wish
from serving.front.fleet_metrics import MISSED_S, FleetMetrics
from serving.front.roster import Roster

RINGS = ModelState("rings", "1", "sampler", "READY")
RAW = ModelState("rings.network", "1", "network", "READY")


class Listed(LocalDirectory):
    """A directory whose list a test writes."""

    listed: Sequence[ReplicaState] = ()

    async def listing(self) -> Listing:
        return replace(await super().listing(), replicas=tuple(self.listed))


class Fleet:
    """A front's view at times that a test chooses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.directory, self.beats = 1000.0, Listed(), 0
        monkeypatch.setattr("serving.front.roster.time.monotonic", lambda: self.now)
        self.roster = Roster(self.directory)
        self.metrics = FleetMetrics(self.roster, lambda: self.now)

    def read(self, *replicas: ReplicaState, after: float = 1.0) -> None:
        """A read of the list, in which each replica has reported since the last one."""
        self.now += after
        self.beats += 1
        self.directory.listed = [
            ReplicaState(each.id, each.address, 1, each.models, draining=each.draining, beat=self.beats,
                         wishes=each.wishes) for each in replicas
        ]  # fmt: skip
        asyncio.run(self.roster.refresh())
        self.metrics.follow()

    def value(self, name: str, **labels: str) -> float | None:
        found = [s.value for f in self.metrics.collect() for s in f.samples if (s.name, s.labels) == (name, labels)]
        return found[0] if found else None

    def ready(self, model: str = "rings") -> float | None:
        return self.value("tiltserve_model_replicas", model=model, state="ready")

    def came_and_went(self) -> tuple[float | None, float | None]:
        return self.value("tiltserve_replicas_joined_total"), self.value("tiltserve_replicas_lost_total")


def replica(name: str, *models: ModelState, draining: bool = False, wishes: Sequence[Wish] = ()) -> ReplicaState:
    return ReplicaState(name, f"{name}:1", 1, models or (RINGS, RAW), draining=draining, wishes=tuple(wishes))


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(monkeypatch)


def test_models_are_counted_by_their_state_on_each_replica(fleet: Fleet):
    old, new = ModelState("rings", "1", "sampler", "READY"), ModelState("rings", "2", "sampler", "LOADING")
    fleet.read(replica("a", old, new), replica("b", new), replica("c", old, draining=True))
    counts = {s: fleet.value("tiltserve_model_replicas", model="rings", state=s) for s in
              ("ready", "loading", "unloading", "unavailable")}  # fmt: skip
    assert counts == {"ready": 1, "loading": 1, "unloading": 0, "unavailable": 1}
    assert fleet.value("tiltserve_replicas", state="serving") == 2
    assert fleet.value("tiltserve_replicas", state="draining") == 1
    fleet.read(replica("a"))
    assert fleet.ready("rings.network") is None  # it is loaded with the sampler


def test_a_model_of_lost_replicas_is_missed_for_an_hour(fleet: Fleet):
    fleet.read(replica("a"))
    fleet.read()
    assert fleet.ready() == 0
    fleet.read(after=MISSED_S - 2)
    assert fleet.ready() == 0
    fleet.read(after=1)
    assert fleet.ready() is None


def test_a_model_that_was_unloaded_is_not_missed(fleet: Fleet):
    gone = ModelState("rings", "1", "sampler", "UNAVAILABLE")
    fleet.read(replica("a"))
    fleet.read(replica("a", gone, wishes=[Wish("rings", False, 1)]))
    assert fleet.ready() is None
    fleet.read(replica("a", wishes=[Wish("rings", True, 2)]))
    assert fleet.ready() == 1
    broken = ModelState("rings", "1", "sampler", "UNAVAILABLE", "not a graph")
    fleet.read(replica("a", broken))
    assert fleet.ready() == 0


def test_replicas_that_fall_silent_are_lost_and_those_that_leave_are_not(fleet: Fleet):
    fleet.read(replica("a"), replica("b"))
    assert fleet.came_and_went() == (0, 0)  # they were there before the front
    fleet.read(replica("a"))  # told to stop, b left at once
    assert fleet.came_and_went() == (0, 0)
    fleet.read(replica("a"), replica("c"))
    assert fleet.came_and_went() == (1, 0)
    fleet.read(replica("a"), after=3.0)  # the lease of c ran out
    assert fleet.came_and_went() == (1, 1)


def test_a_replica_that_does_not_answer_is_lost_once(fleet: Fleet):
    fleet.read(replica("a"), replica("b"))
    for _ in range(2):
        fleet.metrics.gave_up("b")
        fleet.roster.lose("b")
    fleet.metrics.gave_up("unknown")
    assert fleet.came_and_went() == (0, 1)
    fleet.read(replica("a"), after=3.0)
    assert fleet.came_and_went() == (0, 1)
    fleet.read(replica("a"), replica("b"))
    assert fleet.came_and_went() == (1, 1)


def test_the_list_has_an_age(fleet: Fleet, monkeypatch: pytest.MonkeyPatch):
    fleet.read(replica("a"))

    async def fails() -> Listing:
        raise TimeoutError

    monkeypatch.setattr(fleet.directory, "listing", fails)
    fleet.now += 30
    asyncio.run(fleet.roster.refresh())
    fleet.metrics.follow()
    assert fleet.value("tiltserve_directory_age_seconds") == 30
    assert fleet.ready() == 1
