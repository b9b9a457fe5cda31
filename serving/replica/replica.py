"""The life of a replica: it listens, loads its models, tells the directory how it is, and drains."""

import asyncio
import contextlib
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import grpc
import torch
from prometheus_client import CollectorRegistry

from serving.access.gate import Gate
from serving.access.guards import OPEN_REPLICA, ReplicaGuards
from serving.access.service import Service
from serving.backends.opening import Opener
from serving.engine.engine import Engine
from serving.engine.metrics import ReplicaMetrics
from serving.fleet.directory import DirectoryClient, ReplicaState
from serving.fleet.heartbeat import Heartbeat
from serving.labels import OfReplica
from serving.metrics_page import Page
from serving.models.artifacts import Artifacts
from serving.models.draws import MOST_BYTES, DrawStore
from serving.models.draws_on_disk import MOST_BYTES as MOST_ON_DISK
from serving.models.draws_on_disk import DrawsOnDisk
from serving.models.loaded import LoadedModels
from serving.models.polling import Polling
from serving.replica.answering import Answering
from serving.replica.control import Control
from serving.replica.distillation import Distillation
from serving.replica.inference import Inference
from serving.replica.interactive import Sampling
from serving.replica.internal import SERVICE as INTERNAL
from serving.replica.internal import Internal
from serving.replica.repository import SERVICE as REPOSITORY
from serving.replica.repository import Repository
from serving.replica.streaming import Streaming
from serving.rewards.remote import RemoteRewards
from serving.supervised import Supervised
from serving.watching.watching import Watching
from serving.wire import channels, small
from serving.wire.channels import Connections
from serving.wire.streams import CLOSE_S
from steering.targets.rewards import BUILT_IN

_log = logging.getLogger(__name__)
_LOOK_S = 0.2
"""Seconds between two looks at a port that is taken."""


class Replica:
    """Serves the models under `models` on `host`, on the first free port of `ports` ((0, 0): any).

    Args:
        announce: the host by which fronts reach it; None for `host`.
        port_s: seconds to wait for a single port that is taken, as by a replica before it that drains.
        model_memory: most bytes of models in memory, see `LoadedModels`; None for no bound.
        draws_memory: most bytes of draws that are kept for steering under conditions, see `DrawStore`.
        draws_dir: a folder for such draws, shared with other replicas, of at most `draws_dir_bytes`; None for none.
        artifacts: where replicas find what one of them has made of a model; None for nowhere.
        ready_with_bank: whether a model is ready only with its bank, see `LoadedModels`.
        look_s: seconds between looks at `models` for what is new; None for no looks. fetch: makes `models` like the
        store that it stands for, before each; None for a folder alone.
        rewards: host:port, or more of the server, by name of rewards that their owners serve.
        reward_s: seconds that a call to such a reward may take. remembered_s: seconds for which its scores of a bank
        are used again.
        answer_s: how long a client that scores candidates itself may take for one batch, and one that reads a path for
        some of it.
        opener: chooses the backend of a graph; None for ONNX Runtime on `threads` threads.
        trust: names of models that are served even if their rows are not independent.
        allow_model_control: whether fronts may have models loaded and unloaded.
        guards: what callers must show.
        watching: who is told of each call.
        connections: how connections of fronts are made.
        metrics_ports: the page of the replica's own metrics is on the first of them that is free; None for no page.
        identities: how many callers are counted by name, see `ReplicaMetrics`.

    Ray Serve sees none of the requests, so the replica drains by itself: `stop` leaves the directory, refuses new
    requests (fronts then send them to other replicas), and finishes the running ones.
    """

    def __init__(
        self,
        models: Path,
        directory: DirectoryClient,
        *,
        host: str = "127.0.0.1",
        announce: str | None = None,
        ports: tuple[int, int] = (0, 0),
        port_s: float = 0.0,
        threads: int = 1,
        max_bucket: int = 256,
        max_queue_rows: int = 2**24,
        max_queue_bytes: int = 2**32,
        model_memory: int | None = None,
        draws_memory: int = MOST_BYTES,
        draws_dir: Path | None = None,
        draws_dir_bytes: int = MOST_ON_DISK,
        artifacts: Artifacts | None = None,
        ready_with_bank: bool = False,
        look_s: float | None = None,
        fetch: Callable[[], None] | None = None,
        drain_s: float = 30.0,
        rewards: Mapping[str, str | Service] | None = None,
        reward_s: float = 30.0,
        remembered_s: float = 600.0,
        answer_s: float = 60.0,
        opener: Opener | None = None,
        trust: Collection[str] = (),
        allow_model_control: bool = False,
        guards: ReplicaGuards = OPEN_REPLICA,
        watching: Watching | None = None,
        connections: Connections | None = None,
        metrics_ports: tuple[int, int] | None = None,
        identities: int = 100,
    ) -> None:
        self._guards, self._metrics_ports = guards, metrics_ports
        self.id = uuid.uuid4().hex[:12]
        self._directory, self._host, self._ports, self._drain_s = directory, host, ports, drain_s
        self._announce, self._port_s, self._threads = announce or host, port_s, threads
        self._metrics = ReplicaMetrics(identities)
        self._engine = Engine(
            self._metrics, max_bucket=max_bucket, max_queue_rows=max_queue_rows, max_queue_bytes=max_queue_bytes
        )
        disk = None if draws_dir is None else DrawsOnDisk(draws_dir, draws_dir_bytes)
        self._draws = DrawStore(draws_memory, self._metrics.registry, disk)
        self._models = LoadedModels(
            models, threads, model_memory, self._metrics.registry, opener, self._engine.release, trust,
            self._draws, artifacts, with_bank=ready_with_bank,
        )  # fmt: skip
        self._rewards = RemoteRewards(rewards or {}, seconds=reward_s, remembered_s=remembered_s)
        self._connections = connections or Connections()
        self._answering = Answering(
            self._models, self._rewards, self._engine, self._metrics, watching, self._connections
        )
        self._control, self._allow_model_control = Control(self._models, self._tell), allow_model_control
        self._answer_s = answer_s
        self._polling = None if look_s is None else Polling(self._models, self._control.unwished, look_s, fetch)
        self._following: Supervised | None = None
        self._address = ""
        self._server: grpc.aio.Server | None = None
        self._page: Page | None = None
        self._heartbeat: Heartbeat | None = None
        self._preparation: Supervised | None = None
        self._beats = 0

    async def start(self) -> None:
        """Listens, registers with the directory, and loads the models; missing banks are made in the background."""
        torch.set_num_threads(1)  # for this thread and later ones: the cores are for the network
        self._server, self._address = await self._listen()
        self._page = self._listen_metrics()
        await self._server.start()
        loop = asyncio.get_running_loop()
        self._heartbeat = Heartbeat(
            self._directory, self.state, lambda wishes: _on(loop, lambda: self._control.hear(wishes))
        )
        await self._tell()  # and hear which models are not wanted
        await self._control.start()
        for name in self._rewards.definitions:
            if name in self._models.models or name in BUILT_IN:
                _log.warning("reward %r: a model or a built-in of that name hides the configured service", name)
        self._preparation = Supervised("preparing models", lambda: self._models.keep_prepared(self._engine))
        if self._polling is not None:
            self._following = Supervised("following the model repository", self._polling.keep)
        await self._tell()

    async def stop(self) -> None:
        """Leaves the directory and finishes running requests, for up to `drain_s` seconds. Streams that hold no work
        are ended at once, and so are calls whose request has not come yet."""
        self._answering.draining = True
        self._control.stop()
        for task in (self._heartbeat, self._following, self._preparation):
            if task is not None:
                await task.stop()
        with contextlib.suppress(Exception):
            await self._directory.leave(self.id)
        self._answering.streams.stop()
        if self._server is not None:
            await self._answering.under_way.over(self._drain_s)
            await self._server.stop(CLOSE_S)
        if self._page is not None:
            await asyncio.to_thread(self._page.close)
        await asyncio.to_thread(self._engine.stop)
        self._models.close()
        self._draws.close()
        await self._rewards.close()
        await self._answering.watching.close()

    def check_health(self, hung_s: float, still_s: float = math.inf) -> None:
        """Raises RuntimeError for a replica that is to be replaced.

        Args:
            hung_s: seconds in which a network call ends while requests wait.
            still_s: seconds in which a heartbeat is tried.
        """
        if self._heartbeat is not None:
            self._heartbeat.check(still_s)
        if not self._engine.alive:
            raise RuntimeError("the engine's thread has ended")
        if (idle := self._engine.stalled_for()) > hung_s:
            raise RuntimeError(f"no network call has ended for {idle:.0f} s while requests wait")

    @property
    def backlog_seconds(self) -> float:
        """Seconds that what it took on will take."""
        return self._engine.backlog_seconds

    def state(self) -> ReplicaState:
        """The content of the next heartbeat."""
        self._beats += 1
        return ReplicaState(
            self.id,
            self._address,
            os.getpid(),
            self._models.states(),
            self._engine.backlog_rows,
            self._answering.draining,
            self._beats,
            self._control.wishes,
            self._threads,
        )

    async def _tell(self) -> None:
        if self._heartbeat is not None:
            await self._heartbeat.now()

    async def _listen(self) -> tuple[grpc.aio.Server, str]:
        """A server on the first port that is free, and the address to announce."""
        low, high = self._ports
        end = time.monotonic() + (self._port_s if low == high != 0 else 0.0)
        while (found := self._bound(low, high)) is None:
            if time.monotonic() >= end:
                raise RuntimeError(f"replica: expected a free port in {low}-{high} on {self._host}, got none")
            await asyncio.sleep(_LOOK_S)
        return found

    def _bound(self, low: int, high: int) -> tuple[grpc.aio.Server, str] | None:
        repository = Repository(self._models, self._control, allowed=self._allow_model_control)
        guards = self._guards
        gate = Gate(guards.tokens, internal=guards.inside.token, closed=guards.closed, direct=True)
        for port in range(low, high + 1):
            server = grpc.aio.server(options=self._connections.replica(), interceptors=[gate])
            server.add_generic_rpc_handlers(
                [
                    *Inference(self._answering, self._metrics).handlers(),
                    Streaming(self._answering, self._answer_s).handler(),
                    Sampling(self._answering, self._answer_s).handler(),
                    Distillation(self._answering).handler(),
                    small.handler(INTERNAL, Internal(self._metrics), self._answering.streams),
                    small.handler(REPOSITORY, repository, self._answering.streams),
                ]
            )
            with contextlib.suppress(RuntimeError):
                wanted = channels.address(self._host, port)
                if guards.inside.certificates is None:
                    bound = server.add_insecure_port(wanted)
                else:
                    bound = server.add_secure_port(wanted, guards.inside.certificates.server())
                return server, channels.address(self._announce, bound)
        return None

    def _listen_metrics(self) -> Page | None:
        """The page of this replica, on the first port that is free; none where no ports were given."""
        if self._metrics_ports is None:
            return None
        low, high = self._metrics_ports
        registry = CollectorRegistry(support_collectors_without_names=True)
        registry.register(OfReplica(self._metrics.registry, self.id))
        inside, token = self._guards.inside, self._guards.metrics_token
        for port in range(low, high + 1):
            with contextlib.suppress(OSError):
                return Page(registry, self._host, port, token, inside.certificates)
        raise RuntimeError(f"replica metrics: expected a free port in {low}-{high} on {self._host}, got none")

    @property
    def metrics_address(self) -> str:
        """`host:port` of its own page of metrics; "" for none."""
        return "" if self._page is None else channels.address(self._host, self._page.port)


def _on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call on another thread's event loop, unless it has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
