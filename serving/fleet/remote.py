"""Directories that are gRPC servers, as a front or a replica uses them."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from protos.tiltserve.v1 import fleet_pb2 as pb
from protos.tiltserve.v1 import fleet_pb2_grpc
from serving.access.certificates import Pems
from serving.access.gate import INTERNAL
from serving.access.guards import NAME, OPEN_INSIDE, Inside
from serving.fleet import messages
from serving.fleet.directory import FrontState, Listing, ReplicaState, Wish, latest
from serving.wire.channels import Connections

TIMEOUT_S = 2.0
LATE_S = 0.5
"""Once one directory has answered, the others have so long: else one whose cable was pulled would hold up heartbeats to
those that are well for longer than a lease."""
_CONNECT_MS = 2_000
"""A connection is made within so long, or begun anew: a host that is back after its cable was pulled is found soon."""

Reply = TypeVar("Reply")


class UnreachableError(ConnectionError):
    """No directory answered; the text is one line."""


class RemoteDirectory:
    """A `DirectoryClient` of one directory or of several that do not know each other.

    Replicas tell all of them how they are. A front reads all, and knows who is known to any of them, so it misses
    nobody while one of several is down or was begun anew. A call fails only where none answers. For any event loop.

    Args:
        addresses: host:port of each.
        release: the name of the server that they are asked about.
        inside: what they are shown, and what they must show.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        release: str,
        inside: Inside = OPEN_INSIDE,
        connections: Connections | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._peers = [_Peer(each, inside, connections or Connections(), timeout_s) for each in addresses]
        self._release = release

    async def beat(self, replica: ReplicaState) -> Sequence[Wish]:
        request = pb.BeatRequest(release=self._release, replica=messages.replica_report(replica))
        replies = await self._all(lambda peer: peer.ask("Beat", request))
        return tuple(latest(each for reply in replies for each in messages.wishes(reply.wishes)).values())

    async def leave(self, replica_id: str) -> None:
        request = pb.LeaveRequest(release=self._release, replica_id=replica_id)
        await self._all(lambda peer: peer.ask("Leave", request))

    async def listing(self) -> Listing:
        return merged([messages.listing(each) for each in await self._lists()])

    async def announce_front(self, grpc_address: str, metrics_address: str) -> None:
        front = messages.front_report(FrontState(grpc_address, metrics_address))
        request = pb.AnnounceRequest(release=self._release, front=front)
        await self._all(lambda peer: peer.ask("Announce", request))

    async def fronts(self) -> list[FrontState]:
        found = {each.grpc_address: each for reply in await self._lists() for each in reply.fronts}
        return [messages.front_state(found[name]) for name in sorted(found)]

    async def close(self) -> None:
        for peer in self._peers:
            peer.close()

    async def _lists(self) -> list[pb.ListReply]:
        request = pb.ListRequest(release=self._release)
        return await self._all(lambda peer: peer.ask("List", request))

    async def _all(self, ask: Callable[["_Peer"], Awaitable[Reply]]) -> list[Reply]:
        """What those answer that do, but for those that are `LATE_S` behind; UnreachableError where none does."""
        asked = [asyncio.ensure_future(ask(peer)) for peer in self._peers]
        waiting = set(asked)
        try:
            while waiting and not any(each.done() and each.exception() is None for each in asked):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                await asyncio.wait(waiting, timeout=LATE_S)
        finally:
            for each in asked:
                each.cancel()
        replies = [each.result() for each in asked if each.done() and each.exception() is None]
        if not replies:
            told = [f"{peer.address}: {_why(each.exception())}" for peer, each in zip(self._peers, asked, strict=True)]
            raise UnreachableError("; ".join(told))
        return replies


def merged(listings: Sequence[Listing]) -> Listing:
    """The list of several directories: of a replica that several know, the latest report. Who has left one of them, and
    has not told any of them since, has left."""
    found: dict[str, ReplicaState] = {}
    for each in (replica for listing in listings for replica in listing.replicas):
        if each.id not in found or found[each.id].beat < each.beat:
            found[each.id] = each
    left = frozenset[str]().union(*(each.left for each in listings))
    # a replica leaves all of them, one after the other: none must bring it back
    return Listing(
        [found[name] for name in sorted(found) if name not in left],
        left,
        " ".join(each.epoch for each in listings),
        max((each.lease_s for each in listings), default=0.0),
    )


class _Peer:
    """One directory. Its channel is one of threads: a heartbeat and a front's calls are on different event loops."""

    def __init__(self, address: str, inside: Inside, connections: Connections, timeout_s: float) -> None:
        self.address, self._inside, self._timeout_s = address, inside, timeout_s
        self._options = (*connections.channel(), ("grpc.min_reconnect_backoff_ms", _CONNECT_MS))
        self._metadata = ((INTERNAL, inside.token),) if inside.token else ()
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._pems: Pems | None = None

    async def ask(self, method: str, request: Any) -> Any:
        """The reply; raises grpc.RpcError."""
        call = getattr(fleet_pb2_grpc.DirectoryStub(self._open()), method)
        return await _awaited(call.future(request, timeout=self._timeout_s, metadata=self._metadata))

    def close(self) -> None:
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = None

    def _open(self) -> grpc.Channel:
        """The channel, made anew with certificates that were exchanged."""
        with self._lock:
            certificates = self._inside.certificates
            pems = None if certificates is None else certificates.current()
            if self._channel is None or pems is not self._pems:
                if certificates is None:
                    made = grpc.insecure_channel(self.address, options=self._options)
                else:
                    named = (*self._options, ("grpc.ssl_target_name_override", NAME))
                    made = grpc.secure_channel(self.address, certificates.client(), options=named)
                self._channel, self._pems = made, pems  # calls of the one before end within their time
            return self._channel


async def _awaited(call: Any) -> Any:
    """The result of a call that a thread makes."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def tell(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(ended.set)

    call.add_done_callback(tell)
    try:
        await ended.wait()
    finally:
        call.cancel()
    return call.result()


def _why(error: object) -> str:
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
