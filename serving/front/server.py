"""The public gRPC server: finds replicas through the directory and forwards requests to them."""

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection

from protos.tiltserve.v1 import fleet_pb2
from serving.access.caller import caller
from serving.access.gate import Gate
from serving.access.guards import OPEN_FRONT, FrontGuards
from serving.fleet.directory import DirectoryClient
from serving.front import unix
from serving.front.config import ModelConfigs
from serving.front.distillation import Distillation
from serving.front.fleet import Fleet
from serving.front.fleet_metrics import FleetMetrics
from serving.front.forward import Forwarder
from serving.front.health import Health
from serving.front.inference import Inference
from serving.front.interactive import Sampling
from serving.front.links import DISTILLATION, INFERENCE, SAMPLING, Links
from serving.front.log_settings import LogSettings
from serving.front.metrics import IDENTITIES, OWN, FrontMetrics
from serving.front.part import Part
from serving.front.repository import Repository
from serving.front.roster import Roster
from serving.front.shared_memory import SharedMemory, local
from serving.front.statistics import ModelStatistics
from serving.front.summary import summaries
from serving.front.trace_settings import TraceSettingRpc, TraceSettings
from serving.front.unix import PortError
from serving.metrics_page import Page
from serving.supervised import Supervised
from serving.watching.watching import Watching
from serving.wire import channels, small
from serving.wire.channels import Connections
from serving.wire.streams import CLOSE_S, Streams, UnderWay

_log = logging.getLogger(__name__)
_FLEET = fleet_pb2.DESCRIPTOR.services_by_name["Fleet"]
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
Services = Sequence[grpc.GenericRpcHandler]
_SCRAPE_S = 1.0
_REFUSE_S = 0.2
"""A front that refuses new requests is closed once it was asked for none of them for so long: gRPC ends a call that
waits to be taken in at that moment as CANCELLED, which clients do not try again, and a refusal they do."""
_REFUSE_MOST_S = 5.0
"""It is closed after so long all the same: some clients ask again at once, for ever."""
ANSWER_S = 5.0
"""Seconds in which a front that is well answers its own health check."""


class Front:
    """One public endpoint of the fleet; make it and use it on one event loop.

    Args:
        directory: where replicas report.
        host: address that both servers bind to. metrics_host: the metrics page's, if it is another one.
        grpc_port, metrics_port: 0 for any free port.
        socket: path of a Unix socket that takes the place of the gRPC port.
        private: path of a Unix socket for this server's own processes; None for one in a folder of its own, made where
        the front cannot ask itself at its public address.
        beside: path of a Unix socket for an endpoint of another protocol that passes calls on, each with its caller's
            own token: it is guarded as the public port, but for certificates, which that endpoint asks for itself.
            None for no such endpoint.
        guards: certificates, tokens and what a front shows its replicas.
        replay_wait_s: how long a request whose replica was lost waits for an equal one.
        announce: the host by which others reach it; None for those that it binds to.
        drain_s: how long `stop` lets requests finish.
        lame_duck_s: how long `stop` serves on before that, while health is NOT_SERVING.
        poll_s: how often the directory is read.
        allow_model_control: whether clients may load and unload models.
        allow_shared_memory: whether clients of this machine may leave tensors in shared memory, if no others reach the
            server.
        watching: who is told of each call.
        connections: how connections to clients and replicas are made.
        metrics_identities: how many callers are counted by name, see `FrontMetrics`.
        ready_models: models without which it is not ready at first.
    """

    def __init__(
        self,
        directory: DirectoryClient,
        *,
        host: str = "127.0.0.1",
        grpc_port: int = 0,
        metrics_port: int = 0,
        metrics_host: str | None = None,
        announce: str | None = None,
        socket: Path | None = None,
        private: Path | None = None,
        beside: Path | None = None,
        guards: FrontGuards = OPEN_FRONT,
        replay_wait_s: float = 30.0,
        drain_s: float = 30.0,
        lame_duck_s: float = 0.0,
        poll_s: float = 0.5,
        allow_model_control: bool = False,
        allow_shared_memory: bool = False,
        watching: Watching | None = None,
        connections: Connections | None = None,
        metrics_identities: int = IDENTITIES,
        ready_models: Collection[str] = (),
    ) -> None:
        self._directory, self._host, self._metrics_host = directory, host, metrics_host or host
        self._socket, self._private, self._beside, self._guards = socket, private, beside, guards
        self._grpc_port, self._metrics_port, self._drain_s = grpc_port, metrics_port, drain_s
        self._announce, self._lame_duck_s, self._hurried = announce, lame_duck_s, asyncio.Event()
        self._roster = Roster(directory, poll_s, ready_models)
        self.metrics = FrontMetrics(FleetMetrics(self._roster), self._replica_pages, watching, metrics_identities)
        self._connections = connections or Connections()
        self._links = Links(guards.inside, self._connections)
        self._health = Health([each.full_name for each in (INFERENCE, SAMPLING, DISTILLATION, _FLEET)])
        statistics = ModelStatistics(self._roster, self._links)
        self._forwarder = Forwarder(self._roster, self._links, self.metrics, replay_wait_s, statistics)
        self._repository = Repository(self._roster, self._links, allowed=allow_model_control)
        here = socket is not None or local(host)
        self._shared_memory = SharedMemory(allowed=allow_shared_memory and here, longest=self._connections.max_message)
        self._streams, self._under_way = Streams(), UnderWay()
        self.trace_settings = TraceSettings()
        if self.metrics.watching.spans is not None:
            self.metrics.watching.spans.asked = self.trace_settings.sampled
        self._log_settings = LogSettings(self._roster, self._links)
        self._servers: list[grpc.aio.Server] = []
        self._unequal: dict[tuple[str, str], str] = {}
        self._folder: Path | None = None
        self._page: Page | None = None
        self._following: Supervised | None = None
        self._myself: grpc.aio.Channel | None = None

    @property
    def grpc_address(self) -> str:
        """`host:port` of the gRPC server, with the real port once started, or `unix:path`."""
        if self._socket is not None:
            return unix.address(self._socket)
        return channels.address(self._host, self._grpc_port)

    @property
    def _announced(self) -> str:
        """Where others reach the gRPC server."""
        if self._announce is None or self._socket is not None:
            return self.grpc_address
        return channels.address(self._announce, self._grpc_port)

    @property
    def metrics_address(self) -> str:
        """`host:port` of the metrics page, with the real port once started."""
        return channels.address(self._metrics_host, self._metrics_port)

    @property
    def serving(self) -> bool:
        """Whether it is ready, a replica takes requests, and it was not told to stop. For its event loop."""
        return self._roster.serving

    @property
    def fault(self) -> str:
        """Why it is not `serving`, in one line; empty where it is. For its event loop."""
        if self._roster.leaving:
            return "this front was told to stop"
        if lacking := ", ".join(sorted(self._roster.awaited)):
            return f"no replica takes requests for {lacking}"
        return "" if self._roster.index.any_ready else "no replica takes requests"

    async def ready(self) -> list[str]:
        """The names of the models that answer, once there are some. For the event loop of the front."""
        while self._roster.awaited or not self._roster.index.any_ready:
            await self._roster.changed()
        return [name for name, each in self._roster.index.models.items() if each.taking]

    async def start(self) -> None:
        """Listens; raises PortError, with nothing left open."""
        self._loop = asyncio.get_running_loop()
        try:
            self._listen_metrics()
            services = self._services()
            servers = [self._listen_grpc(services), *self._listen_private(services), *self._listen_beside(services)]
        except PortError:
            await self.stop()
            raise
        await self._follow_once()
        for server in servers:
            await server.start()
        self._servers = servers
        self._following = Supervised("following the fleet", self._follow)
        encrypted = self._guards.certificates is not None and self._socket is None
        myself = unix.address(self._private) if self._private and encrypted else self.grpc_address
        self._myself = grpc.aio.insecure_channel(myself, options=self._connections.channel())

    async def stop(self) -> None:
        """Reports NOT_SERVING, serves on for `lame_duck_s` seconds, lets requests finish for up to `drain_s` seconds,
        and closes everything.

        Streams that hold no work are then ended at once, and so are calls whose request has not come yet.
        """
        self._health.close()
        self._roster.leaving = True
        if self._servers and self._lame_duck_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), self._lame_duck_s)
            self._forwarder.stop()
            self._streams.stop()
            # whoever is still here is sent to another front by the closing of his connection, which a client's next
            # request does not notice; only calls that wait to be taken in right now are refused
            await self._ask_itself()
            await asyncio.gather(*(server.stop(self._drain_s + CLOSE_S) for server in self._servers))
        self._forwarder.stop()
        self._streams.stop()
        if self._servers:
            if not self._lame_duck_s:
                await self._refuse()
                await self._under_way.over(self._drain_s)
                await asyncio.gather(*(server.stop(CLOSE_S) for server in self._servers))
            for path in filter(None, (self._socket, self._private, self._beside)):
                path.unlink(missing_ok=True)
        if self._following is not None:
            await self._following.stop()
        if self._myself is not None:
            await self._myself.close()
        if self._page is not None:
            await asyncio.to_thread(self._page.close)  # a page that is being made waits for this event loop
        await self._links.close()
        self._shared_memory.close()
        await self.metrics.watching.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._servers, self._following, self._myself, self._page, self._folder = [], None, None, None, None

    async def _refuse(self) -> None:
        """Answers those who still ask, until nobody does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REFUSE_MOST_S):
                came = None
                while came != self._under_way.came:
                    came = self._under_way.came
                    await asyncio.sleep(_REFUSE_S)
                    await self._ask_itself()

    async def _ask_itself(self) -> None:
        """Returns once calls that waited to be taken in have been: the front's own call stands behind them."""
        if self._myself is not None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await health_pb2_grpc.HealthStub(self._myself).Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_S)

    def hurry(self) -> None:
        """A front that is being stopped does not serve on, and drains now."""
        self._hurried.set()

    async def check_health(self, still_s: float) -> None:
        """Raises RuntimeError when the fleet was not read for `still_s` seconds, or the gRPC server does not answer."""
        if self._following is None or self._myself is None:
            raise RuntimeError("the front: expected it to run, it was not started or has stopped")
        self._following.check(still_s)
        try:
            await health_pb2_grpc.HealthStub(self._myself).Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_S)
        except grpc.aio.AioRpcError as error:
            raise RuntimeError(f"the front's gRPC server does not answer: {error.code().name}") from None

    def _listen_grpc(self, services: Services) -> grpc.aio.Server:
        server = self._made(Gate(self._guards.tokens, refused=self._refused), services)
        if self._socket is not None:
            unix.listen(server, self._socket)
            return server
        try:
            if self._guards.certificates is None:
                self._grpc_port = server.add_insecure_port(self.grpc_address)
            else:
                self._grpc_port = server.add_secure_port(self.grpc_address, self._guards.certificates.server())
        except RuntimeError:
            raise PortError(f"gRPC: expected a free port, {self.grpc_address} cannot be listened on") from None
        return server

    def _refused(self, method: str, context: ServicerContext, code: grpc.StatusCode) -> None:
        self.metrics.refused(method, code, caller().name)
        self.metrics.watching.refused(method, context, code, caller().name)

    def _listen_private(self, services: Services) -> list[grpc.aio.Server]:
        """A server for this server's own processes, which have neither a client's certificate nor a token of the file;
        none where the public one lets them in."""
        if self._private is None:
            if self._guards.certificates is None:
                return []
            self._folder = Path(tempfile.mkdtemp(prefix="tiltserve-"))
            self._private = self._folder / "front"
        server = self._made(Gate(internal=self._guards.inside.token, closed=True), services)
        unix.listen(server, self._private)
        return [server]

    def _listen_beside(self, services: Services) -> list[grpc.aio.Server]:
        """A server for an endpoint of another protocol, if there is one."""
        if self._beside is None:
            return []
        server = self._made(Gate(self._guards.tokens, refused=self._refused), services)
        unix.listen(server, self._beside)
        return [server]

    def _made(self, gate: Gate, services: Services) -> grpc.aio.Server:
        """A server of these services, behind a gate."""
        connections = self._connections
        server = grpc.aio.server(options=connections.front(), compression=connections.answers, interceptors=[gate])
        server.add_generic_rpc_handlers(services)
        return server

    def _services(self) -> Services:
        """What all servers of the front serve."""
        parts = self._roster, self._forwarder, self.metrics, self._under_way, self._streams
        services = (INFERENCE, SAMPLING, DISTILLATION, _FLEET, _HEALTH, _REFLECTION)
        described = reflection.ReflectionServicer([each.full_name for each in services])
        return [
            Inference(*parts, self._shared_memory, self._kserve_parts()).handler(),
            Sampling(*parts).handler(),
            Distillation(*parts, self._connections.max_message).handler(),
            small.handler(_FLEET, Fleet(self._roster, self.metrics), self._streams),
            small.handler(_HEALTH, self._health, self._streams),
            small.handler(_REFLECTION, described, self._streams),
        ]

    def _kserve_parts(self) -> Sequence[Part]:
        """What answers KServe's RPCs, but for inference, metadata and those for shared memory."""
        return (
            ModelConfigs(self._roster),
            self._forwarder.statistics,
            self._repository,
            TraceSettingRpc(self.trace_settings, self._roster),
            self._log_settings,
        )

    def _listen_metrics(self) -> None:
        token, certificates = self._guards.metrics_token, self._guards.certificates
        host, port, parts = self._metrics_host, self._metrics_port, {OWN: self.metrics.own}
        try:
            self._page = Page(self.metrics.registry, host, port, token, certificates, parts)
        except OSError as error:
            cause = error.strerror or error
            raise PortError(f"metrics: expected a free port, got {self.metrics_address}: {cause}") from None
        self._metrics_port = self._page.port

    async def _follow(self) -> None:
        """Keeps roster, links and health up to date, until cancelled."""
        while True:
            await self._roster.pause()
            await self._follow_once()
            if self._following is not None:
                self._following.progressed()

    async def _follow_once(self) -> None:
        await self._roster.refresh()
        self.metrics.fleet.follow()
        await self._links.keep({replica.id for replica in self._roster.index.replicas})
        await self._log_settings.catch_up()
        self._health.follow(self._roster.index, ready=not self._roster.awaited)
        self._compare()
        # Repeated, because the directory forgets what it is not told; while it is down the roster says so.
        with contextlib.suppress(Exception):
            metrics = channels.address(self._announce or self._metrics_host, self._metrics_port)
            await self._directory.announce_front(self._announced, metrics)

    def _compare(self) -> None:
        """Log a line where replicas of a fleet have come to differ in what they answer."""
        listed = self._roster.index.models
        found = {(name, each.version): each.unequal for name in listed for each in summaries(self._roster.index, name)}
        for (name, version), told in found.items():
            if told and self._unequal.get((name, version)) != told:
                _log.warning("model %s version %s: %s", name, version, told)
        self._unequal = found

    def _replica_pages(self) -> Mapping[str, str]:
        """The metrics text of every replica that answers; called by the page's threads."""
        scraping = asyncio.run_coroutine_threadsafe(self._scrape(), self._loop)
        try:
            return scraping.result(2 * _SCRAPE_S)
        except TimeoutError:
            scraping.cancel()
            return {}

    async def _scrape(self) -> dict[str, str]:
        replicas = self._roster.index.replicas
        pages = await asyncio.gather(
            *(self._links.to(replica).metrics(_SCRAPE_S) for replica in replicas), return_exceptions=True
        )
        return {replica.id: page for replica, page in zip(replicas, pages, strict=True) if isinstance(page, str)}
