"""A directory as a gRPC server of its own, for fronts and replicas on several hosts: tiltserve.v1.Directory.

Its state is soft: it comes back empty and is complete a heartbeat later, while fronts go on with the list that they
have. So it needs no disk, and two of them need not know each other.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2

from protos.tiltserve.v1 import fleet_pb2 as pb
from serving.access.gate import Gate
from serving.access.guards import OPEN_INSIDE, Inside
from serving.fleet import messages
from serving.fleet.directory import Directory, FullError
from serving.wire import channels, errors, small
from serving.wire.channels import Connections
from serving.wire.streams import CLOSE_S, Streams

SERVICE = pb.DESCRIPTOR.services_by_name["Directory"]
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
LONGEST = 2**22
"""Most bytes of a heartbeat: thousands of models."""
LONGEST_NAME = 256
"""Most characters of a release, an id and an address."""

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Answers:
    """The service: of one release."""

    def __init__(self, directory: Directory, release: str) -> None:
        self._directory, self._release = directory, release

    async def Beat(self, request: pb.BeatRequest, context: ServicerContext) -> pb.BeatReply:
        replica = request.replica
        await self._check(context, request.release, replica.id, replica.address)
        wishes = await self._done(context, lambda: self._directory.beat(messages.replica_state(replica)))
        return pb.BeatReply(wishes=messages.wishes_reported(wishes))

    async def Leave(self, request: pb.LeaveRequest, context: ServicerContext) -> pb.LeaveReply:
        await self._check(context, request.release, request.replica_id)
        await self._done(context, lambda: self._directory.leave(request.replica_id))
        return pb.LeaveReply()

    async def List(self, request: pb.ListRequest, context: ServicerContext) -> pb.ListReply:
        await self._check(context, request.release)
        listing = self._directory.listing()
        return pb.ListReply(
            replicas=map(messages.replica_report, listing.replicas),
            left=sorted(listing.left),
            epoch=listing.epoch,
            lease_seconds=listing.lease_s,
            fronts=map(messages.front_report, self._directory.fronts()),
        )

    async def Announce(self, request: pb.AnnounceRequest, context: ServicerContext) -> pb.AnnounceReply:
        front = messages.front_state(request.front)
        await self._check(context, request.release, front.grpc_address, front.metrics_address)
        announce = self._directory.announce_front
        await self._done(context, lambda: announce(front.grpc_address, front.metrics_address))
        return pb.AnnounceReply()

    async def _check(self, context: ServicerContext, release: str, *names: str) -> None:
        """Refuse what is of another release, or not named."""
        if release != self._release:
            other = f"directory: expected the release {self._release!r}, got {release[:LONGEST_NAME]!r}"
            await errors.abort(context, errors.failed_precondition(other))
        for each in names:
            if not 0 < len(each) <= LONGEST_NAME:
                length = f"directory: expected ids and addresses of 1 to {LONGEST_NAME} characters, got {len(each)}"
                await errors.abort(context, errors.invalid(length))

    async def _done(self, context: ServicerContext, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except FullError as error:
            await errors.abort(context, errors.exhausted(str(error)))
        except ValueError as error:
            await errors.abort(context, errors.invalid(str(error)))


class Health:
    """grpc.health.v1 of a directory: it serves as long as it answers."""

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in ("", SERVICE.full_name):
            unknown = f"unknown service {request.service[:100]!r}, expected {SERVICE.full_name}"
            await errors.abort(context, errors.not_found(unknown))
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class DirectoryServer:
    """Serves one directory; make it and use it on one event loop.

    Args:
        release: the name of the server whose fronts and replicas may use it.
        inside: what these must show.
    """

    def __init__(
        self,
        directory: Directory | None = None,
        *,
        release: str,
        host: str = "127.0.0.1",
        port: int = 0,
        inside: Inside = OPEN_INSIDE,
        connections: Connections | None = None,
    ) -> None:
        self.directory = directory or Directory()
        self._release, self._host, self._port, self._inside = release, host, port, inside
        self._connections = connections or Connections()
        self._server: grpc.aio.Server | None = None
        self._streams: Streams | None = None

    @property
    def address(self) -> str:
        """`host:port`, with the real port once started."""
        return channels.address(self._host, self._port)

    async def start(self) -> None:
        """Listens; raises RuntimeError, one line, where that cannot be."""
        self._streams = Streams()
        gate = Gate(internal=self._inside.token)
        self._server = grpc.aio.server(options=self._connections.replica(), interceptors=[gate])
        self._server.add_generic_rpc_handlers(
            [
                small.handler(SERVICE, Answers(self.directory, self._release), self._streams, LONGEST),
                small.handler(_HEALTH, Health(), self._streams),
            ]
        )
        try:
            if self._inside.certificates is None:
                self._port = self._server.add_insecure_port(self.address)
            else:
                self._port = self._server.add_secure_port(self.address, self._inside.certificates.server())
        except RuntimeError:
            raise RuntimeError(f"directory: expected a free port, {self.address} cannot be listened on") from None
        await self._server.start()

    async def stop(self) -> None:
        if self._streams is not None:
            self._streams.stop()
        if self._server is not None:
            await self._server.stop(CLOSE_S)
