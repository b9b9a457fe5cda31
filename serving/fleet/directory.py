"""Who serves what: soft state that replicas renew with heartbeats and fronts read."""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from serving.wire.rows import Draws, Solves
from serving.wire.tensors import TensorSpec

MOST = 4096
"""Most replicas, and fronts, of a directory; most models that somebody wished something of."""
LEASE_S = 3.0
"""Seconds after its last heartbeat that a replica or front is forgotten; heartbeats come every second."""

Kind = Literal["sampler", "network", "pipeline", "dynamics"]
Device = Literal["CPU", "GPU"]
State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True)
class ModelState:
    """One version of a model on one replica; `reason` says why it is not READY.

    Attributes:
        backend, device: what runs its network: the software, such as `onnxruntime`, and where.
        most_rows, usual_rows: rows that one call of the network can have, and that are worth waiting for; 0 for a
            sampler, which takes no rows.
        draws: what a front needs to know of a model that draws samples to count a request's rows; None for others.
        solves: likewise of a model of dynamics.
        cold: its bank or calibration is still being made: it answers, but less well, and soon otherwise.
    """

    name: str
    version: str
    kind: Kind
    state: State
    reason: str = ""
    fingerprint: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    backend: str = ""
    device: Device = "CPU"
    most_rows: int = 0
    usual_rows: int = 0
    draws: Draws | None = None
    solves: Solves | None = None
    cold: bool = False


@dataclass(frozen=True)
class Wish:
    """That a model be loaded, as its folder is then, or unloaded. Of several for one model that with the largest
    `revision` counts, in whatever order they are heard."""

    name: str
    loaded: bool
    revision: int


@dataclass(frozen=True)
class ReplicaState:
    """A replica's heartbeat; `address` is `host:port` of its own gRPC server, `beat` counts its reports.

    Attributes:
        wishes: all that it knows of, so that they outlive a directory that is lost.
        threads: of its networks, which are part of fingerprints; 0 where that is not said.
    """

    id: str
    address: str
    pid: int
    models: tuple[ModelState, ...] = ()
    backlog_rows: int = 0
    draining: bool = False
    beat: int = 0
    wishes: tuple[Wish, ...] = ()
    threads: int = 0


@dataclass(frozen=True)
class FrontState:
    """Where a front's gRPC server and metrics page listen."""

    grpc_address: str
    metrics_address: str


@dataclass(frozen=True)
class Listing:
    """What a directory knows at one time.

    Attributes:
        replicas: those whose lease runs, by id.
        left: ids of replicas that have left within the last lease.
        epoch: of this directory since it began; another one may not know everybody yet.
        lease_s: within which everybody who lives has told it.
    """

    replicas: Sequence[ReplicaState]
    left: frozenset[str]
    epoch: str
    lease_s: float


Item = TypeVar("Item")


class FullError(RuntimeError):
    """A directory takes no more; the text is one line."""


class Leases(Generic[Item]):
    """Items by name, each forgotten `lease_s` seconds after its last `put`; `clock` counts seconds. For any thread."""

    def __init__(self, lease_s: float, clock: Callable[[], float]) -> None:
        self._lease_s, self._clock = lease_s, clock
        self._items: dict[str, tuple[float, Item]] = {}
        self._lock = threading.Lock()

    def put(self, name: str, item: Item) -> None:
        """Raises FullError where there are `MOST` others."""
        if name not in self._items and len(self._items) >= MOST and len(self.live()) >= MOST:
            raise FullError(f"directory: expected at most {MOST} entries, got one more")
        with self._lock:
            self._items[name] = (self._clock() + self._lease_s, item)

    def drop(self, name: str) -> None:
        with self._lock:
            self._items.pop(name, None)

    def live(self) -> list[Item]:
        """The items whose lease runs, by name."""
        with self._lock:
            now = self._clock()
            self._items = {name: entry for name, entry in self._items.items() if entry[0] > now}
            return [self._items[name][1] for name in sorted(self._items)]


def latest(wishes: Iterable[Wish]) -> dict[str, Wish]:
    """The wish that counts for each model."""
    found: dict[str, Wish] = {}
    for each in wishes:
        if each.name not in found or each.revision > found[each.name].revision:
            found[each.name] = each
    return found


class Directory:
    """The list itself. If it is lost, it is complete again one heartbeat later."""

    def __init__(self, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._replicas = Leases[ReplicaState](lease_s, clock)
        self._fronts = Leases[FrontState](lease_s, clock)
        self._left = Leases[str](lease_s, clock)
        self._wishes: dict[str, Wish] = {}
        self._lease_s, self._epoch = lease_s, uuid.uuid4().hex

    def beat(self, replica: ReplicaState) -> Sequence[Wish]:
        """Notes a replica; what is wished of each model, as far as any replica has said since this list began. Raises
        FullError."""
        self._left.drop(replica.id)
        self._replicas.put(replica.id, replica)
        wishes = latest([*self._wishes.values(), *replica.wishes])
        if len(wishes) > max(MOST, len(self._wishes)):
            raise FullError(f"directory: expected wishes of at most {MOST} models, got {len(wishes)}")
        self._wishes = wishes
        return tuple(self._wishes.values())

    def leave(self, replica_id: str) -> None:
        """Forgets a replica now. If it is alive, its next heartbeat brings it back."""
        self._replicas.drop(replica_id)
        self._left.put(replica_id, replica_id)

    def listing(self) -> Listing:
        return Listing(self._replicas.live(), frozenset(self._left.live()), self._epoch, self._lease_s)

    def announce_front(self, grpc_address: str, metrics_address: str) -> None:
        self._fronts.put(grpc_address, FrontState(grpc_address, metrics_address))

    def fronts(self) -> list[FrontState]:
        return self._fronts.live()


class DirectoryClient(Protocol):
    """A directory, perhaps in another process: any call may fail or hang, and the caller then goes on with its last
    list."""

    async def beat(self, replica: ReplicaState) -> Sequence[Wish]: ...

    async def leave(self, replica_id: str) -> None: ...

    async def listing(self) -> Listing: ...

    async def announce_front(self, grpc_address: str, metrics_address: str) -> None: ...

    async def fronts(self) -> list[FrontState]: ...


class LocalDirectory:
    """A directory of this process as a `DirectoryClient`."""

    def __init__(self, directory: Directory | None = None) -> None:
        self.directory = directory or Directory()

    async def beat(self, replica: ReplicaState) -> Sequence[Wish]:
        return self.directory.beat(replica)

    async def leave(self, replica_id: str) -> None:
        self.directory.leave(replica_id)

    async def listing(self) -> Listing:
        return self.directory.listing()

    async def announce_front(self, grpc_address: str, metrics_address: str) -> None:
        self.directory.announce_front(grpc_address, metrics_address)

    async def fronts(self) -> list[FrontState]:
        return self.directory.fronts()
