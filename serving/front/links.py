"""Open channels from a front to its replicas, one each."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2, service_pb2_grpc

from protos.tiltserve.v1 import (
    distillation_pb2,
    fleet_pb2,
    fleet_pb2_grpc,
    repository_pb2,
    repository_pb2_grpc,
    sampling_pb2,
)
from serving.access.caller import ANYBODY, HEADER, caller, told
from serving.access.gate import INTERNAL
from serving.access.guards import NAME, OPEN_INSIDE, Inside
from serving.fleet.directory import ReplicaState
from serving.watching.record import end_matters, note_times, outgoing, times_come
from serving.wire import streamed
from serving.wire.channels import Connections
from serving.wire.errors import RequestError, internal
from serving.wire.streamed import Place

INFERENCE: ServiceDescriptor = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SAMPLING: ServiceDescriptor = sampling_pb2.DESCRIPTOR.services_by_name["Sampling"]
DISTILLATION: ServiceDescriptor = distillation_pb2.DESCRIPTOR.services_by_name["Distillation"]


class Link:
    """A channel to one replica that knows its calls in flight, with their rows and when they were sent."""

    def __init__(self, address: str, inside: Inside = OPEN_INSIDE, connections: Connections | None = None) -> None:
        self._token, certificates = inside.token, inside.certificates
        self.pems = None if certificates is None else certificates.current()
        options = (connections or Connections()).channel()
        if certificates is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            named = (*options, ("grpc.ssl_target_name_override", NAME))
            self.channel = grpc.aio.secure_channel(address, certificates.client(), options=named)
        self._sent: dict[object, tuple[float, int]] = {}
        # Without serialisers gRPC passes bytes through: the front never rebuilds a message.
        self._infer = self.channel.unary_unary(f"/{INFERENCE.full_name}/ModelInfer")
        self._stream = self.channel.stream_stream(f"/{INFERENCE.full_name}/ModelStreamInfer")
        self._interact = self.channel.stream_stream(f"/{SAMPLING.full_name}/SampleInteractive")
        self._gradient = self.channel.unary_unary(f"/{DISTILLATION.full_name}/Gradient")
        internal = fleet_pb2_grpc.ReplicaInternalStub(self.channel)
        self._metrics, self._log = internal.Metrics, internal.Log
        self._repository = repository_pb2_grpc.ReplicaRepositoryStub(self.channel)
        self._statistics = service_pb2_grpc.GRPCInferenceServiceStub(self.channel).ModelStatistics

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return len(self._sent)

    def rows_since(self, since: float) -> int:
        """Rows of the requests under way that were sent after that time (`time.monotonic`)."""
        return sum(rows for sent, rows in self._sent.values() if sent > since)

    def _metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """That a front calls, and for whom."""
        if not self._token:
            return ()
        who = caller()
        return ((INTERNAL, self._token), *(() if who == ANYBODY else ((HEADER, told(who)),)))

    @contextlib.contextmanager
    def _under_way(self, rows: int) -> Iterator[None]:
        key = object()
        self._sent[key] = time.monotonic(), rows
        try:
            yield
        finally:
            del self._sent[key]

    async def infer(self, request: bytes, rows: int, timeout: float | None) -> bytes:
        """A serialised ModelInferResponse; raises AioRpcError. Cancelling it cancels the call on the replica."""
        return await self._unary(self._infer, request, rows, timeout)

    async def gradient(self, request: bytes, rows: int, timeout: float | None) -> bytes:
        """A serialised GradientResponse, as `infer`."""
        return await self._unary(self._gradient, request, rows, timeout)

    async def _unary(
        self, method: grpc.aio.UnaryUnaryMultiCallable, request: bytes, rows: int, timeout: float | None
    ) -> bytes:
        with self._under_way(rows):
            call = method(request, timeout=timeout, metadata=(*outgoing(), *self._metadata()))
            reply: bytes = await call
            if times_come():
                note_times(await call.trailing_metadata())
            return reply

    async def stream(
        self, request: bytes, rows: int, deliver: Callable[[bytes, Place], Awaitable[None]], timeout: float | None
    ) -> bytes:
        """The last response to a request on a stream of its own, a serialised ModelStreamInferResponse; those before it
        go to `deliver` as they come. Raises AioRpcError, also for the replica's own errors. Cancelling it cancels the
        request on the replica.
        """
        call = self._stream(timeout=timeout, metadata=(streamed.AS_STATUS, *outgoing(), *self._metadata()))
        with self._under_way(rows):
            try:
                with contextlib.suppress(Exception):  # it has ended, and reading says why
                    await call.write(request)
                    await call.done_writing()
                async for reply in call:
                    place = streamed.place(reply)
                    if place.final:
                        if end_matters():
                            note_times(await call.trailing_metadata())
                        return reply
                    await deliver(reply, place)
            finally:
                call.cancel()
        raise internal("the replica ended a stream without a last response")

    async def interact(
        self,
        first: bytes,
        rows: int,
        requests: AsyncIterator[bytes],
        deliver: Callable[[bytes], Awaitable[None]],
        timeout: float | None,
    ) -> None:
        """Passes messages between a client and the replica until the replica ends the stream; raises AioRpcError, and
        what `requests` raises.

        `requests` is read once for each reply that was delivered. So the first is read only when the stream can no
        longer be started again on another replica, and nobody waits for a client while the replica computes.
        """
        call = self._interact(timeout=timeout, metadata=(*outgoing(), *self._metadata()))
        turns = asyncio.Semaphore(0)
        passing: asyncio.Task[None] | None = None
        with self._under_way(rows):
            try:
                await call.write(first)
                async for reply in call:
                    await deliver(reply)
                    turns.release()
                    passing = passing or asyncio.create_task(_pass_on(requests, call, turns))
                note_times(await call.trailing_metadata())
            except asyncio.CancelledError:
                if passing is not None and passing.done():
                    await passing  # it ended the call: for this reason, if there is one
                raise
            finally:
                if passing is not None:
                    passing.cancel()
                call.cancel()

    async def metrics(self, timeout: float) -> str:
        """The replica's metrics as Prometheus text; raises AioRpcError."""
        reply: fleet_pb2.MetricsReply = await self._asked(self._metrics, fleet_pb2.MetricsRequest(), timeout)
        return reply.text

    async def folders(self, timeout: float) -> list[tuple[str, str]]:
        """Name and version of what lies in the replica's model repository; raises AioRpcError."""
        asked = repository_pb2.ListFoldersRequest()
        reply: repository_pb2.ListFoldersReply = await self._asked(self._repository.ListFolders, asked, timeout)
        return [(each.name, each.version) for each in reply.folders]

    async def change_model(self, name: str, revision: int, *, loaded: bool) -> int:
        """Have the replica load or unload a model; for how many running requests an unload waited. Raises
        AioRpcError."""
        call = self._repository.LoadModel if loaded else self._repository.UnloadModel
        asked = repository_pb2.ChangeModelRequest(name=name, revision=revision)
        reply: repository_pb2.ChangeModelReply = await self._asked(call, asked, None)
        return reply.waited_for

    async def log(self, levels: fleet_pb2.LogLevels, timeout: float) -> None:
        """Make the replica log lines of these kinds and no others; raises AioRpcError."""
        await self._asked(self._log, levels, timeout)

    async def statistics(self, timeout: float) -> service_pb2.ModelStatisticsResponse:
        """What the replica has counted of all its models; raises AioRpcError."""
        reply: service_pb2.ModelStatisticsResponse = await self._asked(
            self._statistics, service_pb2.ModelStatisticsRequest(), timeout
        )
        return reply

    async def _asked(self, call: Callable[..., Awaitable[Any]], request: Message, timeout: float | None) -> Any:
        """The reply to a request without rows. It is under way, so that the channel is not closed before it ends,
        which would cancel whoever waits for it."""
        with self._under_way(0):
            return await call(request, timeout=timeout, metadata=self._metadata())


async def _pass_on(requests: AsyncIterator[bytes], call: grpc.aio.StreamStreamCall, turns: asyncio.Semaphore) -> None:
    """One request for each of the client's turns."""
    # if the call has ended, the reader of its replies reports why
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        try:
            await turns.acquire()
            async for request in requests:
                await call.write(request)
                await turns.acquire()
        except RequestError:
            call.cancel()
            raise
        await call.done_writing()


class Links:
    """The links by replica id, made as `connections` says."""

    def __init__(self, inside: Inside = OPEN_INSIDE, connections: Connections | None = None) -> None:
        self._inside, self._connections = inside, connections
        self._links: dict[str, Link] = {}
        self._old: list[Link] = []  # with certificates that were exchanged; closed when idle

    def to(self, replica: ReplicaState) -> Link:
        """The link to this replica, opened if there is none."""
        link, certificates = self._links.get(replica.id), self._inside.certificates
        if link is not None and certificates is not None and link.pems is not certificates.current():
            self._old.append(link)
            link = None
        if link is None:
            link = self._links[replica.id] = Link(replica.address, self._inside, self._connections)
        return link

    def in_flight(self) -> dict[str, int]:
        """Calls under way by replica id."""
        return {replica_id: link.in_flight for replica_id, link in self._links.items()}

    def unreported(self, replica_id: str, covered: Mapping[str, float]) -> int:
        """Rows of the requests under way at a replica that the backlog it reported does not have yet.

        Args:
            covered: until which time each replica's reported backlog includes what was sent, see `Roster`.
        """
        link = self._links.get(replica_id)
        return 0 if link is None else link.rows_since(covered.get(replica_id, 0.0))

    async def keep(self, replica_ids: Collection[str]) -> None:
        """Closes the links to all other replicas once they are idle: a draining replica has left the list but still
        answers."""
        gone = [key for key, link in self._links.items() if key not in replica_ids and not link.in_flight]
        idle = [each for each in self._old if not each.in_flight]
        self._old = [each for each in self._old if each.in_flight]
        for link in [*idle, *(self._links.pop(key) for key in gone)]:
            await link.channel.close()

    async def close(self) -> None:
        for link in [*self._links.values(), *self._old]:
            await link.channel.close()
        self._links.clear()
        self._old.clear()
