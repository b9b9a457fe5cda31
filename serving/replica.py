"""A replica: an engine with its models, behind a grpc.aio server of its own."""

import asyncio
import contextlib
import logging
import math
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path

import grpc
import torch
from google.protobuf.message import Message
from grpc.aio import ServicerContext
from tritonclient.grpc import service_pb2 as pb

from protos.tiltserve.v1 import fleet_pb2, sampling_pb2
from serving.backends.opening import Opener
from serving.engine.engine import Engine
from serving.engine.metrics import ReplicaMetrics
from serving.fleet.directory import DirectoryClient, ModelState, ReplicaState
from serving.fleet.heartbeat import Heartbeat
from serving.models.loaded import LoadedModels
from serving.models.model import Model, Sampler
from serving.requests import job
from serving.rewards import Definition
from serving.rewards.client import ClientDefinition
from serving.rewards.remote import RemoteRewards
from serving.supervised import Supervised
from serving.wire import channels, errors, interactive, kserve, received, small
from serving.wire.answer import Answer
from serving.wire.aside import aside
from serving.wire.interactive import CLIENT
from serving.wire.kserve import InferRequest
from serving.wire.parameters import timeout_s
from serving.wire.streams import CLOSE_S, Streams, UnderWay
from steering.targets.rewards import BUILT_IN

_log = logging.getLogger(__name__)
_INFERENCE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_SAMPLING = sampling_pb2.DESCRIPTOR.services_by_name["Sampling"]
_INTERNAL = fleet_pb2.DESCRIPTOR.services_by_name["ReplicaInternal"]
AT_ONCE_S = 0.05
"""A request that takes no longer needs not say that it was begun."""


class Replica:
    """Serves the models under `models` on `host`, on the first free port of `ports` ((0, 0): any).

    Args:
        model_memory: most bytes of models in memory, see `LoadedModels`; None for no bound.
        rewards: host:port by name of rewards that their owners serve.
        reward_s: seconds that a call to such a reward may take. remembered_s: seconds for which its scores of a bank
        are used again.
        answer_s: how long a client that scores candidates itself may take for one batch.
        opener: chooses the backend of a graph; None for ONNX Runtime on `threads` threads.
        trust: names of models that are served even if their rows are not independent.

    Ray Serve sees none of the requests, so the replica drains by itself: `stop` leaves the directory, refuses new
    requests (fronts then send them to other replicas), and finishes the running ones.
    """

    def __init__(
        self,
        models: Path,
        directory: DirectoryClient,
        *,
        host: str = "127.0.0.1",
        ports: tuple[int, int] = (0, 0),
        threads: int = 1,
        max_bucket: int = 256,
        max_queue_rows: int = 2**24,
        max_queue_bytes: int = 2**32,
        model_memory: int | None = None,
        drain_s: float = 30.0,
        rewards: Mapping[str, str] | None = None,
        reward_s: float = 30.0,
        remembered_s: float = 600.0,
        answer_s: float = 60.0,
        opener: Opener | None = None,
        trust: Collection[str] = (),
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._directory, self._host, self._ports, self._drain_s = directory, host, ports, drain_s
        self._metrics = ReplicaMetrics()
        self._engine = Engine(
            self._metrics, max_bucket=max_bucket, max_queue_rows=max_queue_rows, max_queue_bytes=max_queue_bytes
        )
        self._metrics.backlog_rows.set_function(lambda: self._engine.backlog_rows)
        self._models = LoadedModels(
            models, threads, model_memory, self._metrics.registry, opener, self._engine.release, trust
        )
        self._rewards = RemoteRewards(rewards or {}, seconds=reward_s, remembered_s=remembered_s)
        self._answer_s = answer_s
        self._draining = False
        self._address = ""
        self._server: grpc.aio.Server | None = None
        self._streams, self._under_way = Streams(), UnderWay()
        self._heartbeat: Heartbeat | None = None
        self._preparation: Supervised | None = None
        self._beats = 0

    async def start(self) -> None:
        """Listens, registers with the directory, and loads the models; missing banks are made in the background."""
        torch.set_num_threads(1)  # for this thread and later ones: the cores are for the network
        self._server, self._address = self._listen()
        await self._server.start()
        self._heartbeat = Heartbeat(self._directory, self.state)
        await self._models.load_all()
        for name in self._rewards.definitions:
            if name in self._models.models or name in BUILT_IN:
                _log.warning("reward %r: a model or a built-in of that name hides the configured service", name)
        self._preparation = Supervised("preparing models", lambda: self._models.prepare(self._engine))
        await self._heartbeat.now()

    async def stop(self) -> None:
        """Leaves the directory and finishes running requests, for up to `drain_s` seconds. Streams that hold no work
        are ended at once, and so are calls whose request has not come yet."""
        self._draining = True
        for task in (self._heartbeat, self._preparation):
            if task is not None:
                await task.stop()
        with contextlib.suppress(Exception):
            await self._directory.leave(self.id)
        self._streams.stop()
        if self._server is not None:
            await self._under_way.over(self._drain_s)
            await self._server.stop(CLOSE_S)
        await asyncio.to_thread(self._engine.stop)
        self._models.close()
        await self._rewards.close()

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

    def state(self) -> ReplicaState:
        """The content of the next heartbeat."""
        self._beats += 1
        return ReplicaState(
            self.id,
            self._address,
            os.getpid(),
            self._models.states(),
            self._engine.backlog_rows,
            self._draining,
            self._beats,
        )

    @property
    def ready(self) -> bool:
        """Whether it takes requests for some model."""
        return not self._draining and any(each.state == "READY" for each in self._models.states())

    def listed(self, name: str, version: str = "") -> ModelState | None:
        """What the directory is told of a model; None where it has no such name or version."""
        states = (each for each in self._models.states() if each.name == name)
        return next((each for each in states if version in ("", each.version)), None)

    async def infer(self, data: bytes, context: ServicerContext) -> bytes:
        """ModelInfer: decode, run, encode. If the caller leaves, its rows leave the engine."""
        self._under_way.add(context)
        async with _Statuses("ModelInfer", context):
            came = await aside(len(data), lambda: received.infer(data))
            request = await aside(kserve.effort(came), lambda: kserve.decode_request(came))
            async with _Begun(context):
                model, answer = await self._answer(request, len(data), context, self._rewards.definitions)
                requested = [name for name in request.outputs if name in answer.outputs]
                return await _encoded(
                    answer,
                    lambda: kserve.encode_response(
                        model.name, model.version, request.id, answer.outputs, answer.parameters, requested
                    ),
                )

    async def interact(self, messages: AsyncIterator[bytes], context: ServicerContext) -> None:
        """SampleInteractive: as ModelInfer, with the client as one more reward."""
        async with _Statuses("SampleInteractive", context):
            first = await self._streams.first(messages)
            self._under_way.add(context)
            request = await aside(len(first), lambda: interactive.decoded(received.sample(first)))
            await context.send_initial_metadata((errors.BEGUN,))

            async def write(reply: sampling_pb2.InteractiveReply) -> None:
                await context.write(_fitting(reply.SerializeToString()))

            async def read() -> sampling_pb2.InteractiveRequest:
                return interactive.answered(await self._streams.answered(messages, "the client's scores"))

            client = ClientDefinition(read, write, self._answer_s)
            if not isinstance(self._model(request.model), Sampler):
                raise errors.invalid(f"model {request.model!r}: expected a sampler, got a plain network")
            remotes: dict[str, Definition] = {**self._rewards.definitions, CLIENT: client}
            model, answer = await self._answer(request, len(first), context, remotes)
            last = await _encoded(answer, lambda: interactive.last_reply(model.name, model.version, request.id, answer))
            await context.write(last)

    async def _answer(
        self, request: InferRequest, size: int, context: ServicerContext, remotes: Mapping[str, Definition]
    ) -> tuple[Model, Answer]:
        """Run a request that came in so many bytes. If the caller leaves, its rows leave the engine."""
        if self._draining:
            raise errors.draining("the replica is stopping")
        limits = context.time_remaining(), timeout_s(request.parameters.get("timeout", 0))
        deadline = time.monotonic() + min((limit for limit in limits if limit is not None), default=math.inf)
        async with self._models.holding(request):
            model = self._model(request.model)
            kserve.check_outputs(request.outputs, job.output_names(model))
            if isinstance(model, Sampler):  # a front has drawn one; a client that comes without a front may have not
                request.parameters.setdefault("seed", secrets.randbelow(2**63))
            models = self._models.models.copy()
            task = await aside(size, lambda: job.task_for(request, model, models, remotes, deadline))
            try:
                answer: Answer = await asyncio.wrap_future(self._engine.submit(task))
            except Exception as error:
                raise job.request_error(error) from error
        self._metrics.answered(model.name, answer.steering, answer.parameters.get("ess"))
        return model, answer

    def _model(self, name: str) -> Model:
        if name in self._models.models:
            return self._models.models[name]
        if (state := self.listed(name)) is not None:
            raise errors.unavailable(f"model {name!r} is {state.state.lower()}: {state.reason or 'not loaded yet'}")
        raise errors.not_found(f"unknown model {name!r}, expected one of {', '.join(sorted(self._models.models))}")

    def _listen(self) -> tuple[grpc.aio.Server, str]:
        """A server on the first port that is free."""
        low, high = self._ports
        for port in range(low, high + 1):
            server = grpc.aio.server(options=channels.REPLICA)
            server.add_generic_rpc_handlers(
                [
                    # messages of these may be large: they take and give bytes
                    grpc.method_handlers_generic_handler(
                        _INFERENCE.full_name, {"ModelInfer": grpc.unary_unary_rpc_method_handler(self.infer)}
                    ),
                    grpc.method_handlers_generic_handler(
                        _SAMPLING.full_name,
                        {"SampleInteractive": grpc.stream_stream_rpc_method_handler(self.interact)},
                    ),
                    small.handler(_INFERENCE, _Inference(self), self._streams),
                    small.handler(_INTERNAL, _Internal(self._metrics), self._streams),
                ]
            )
            with contextlib.suppress(RuntimeError):
                bound = server.add_insecure_port(channels.address(self._host, port))
                return server, channels.address(self._host, bound)
        raise RuntimeError(f"replica: expected a free port in {low}-{high} on {self._host}, got none")


async def _encoded(answer: Answer, reply: Callable[[], Message]) -> bytes:
    """The serialised reply that holds an answer, made aside where it is large; raises as `_fitting`."""
    size = sum(each.nbytes for each in answer.outputs.values())
    return await aside(size, lambda: _fitting(reply().SerializeToString()))


def _fitting(reply: bytes) -> bytes:
    """A serialised reply; RESOURCE_EXHAUSTED if it is longer than a message may be, which was not known beforehand."""
    if len(reply) > channels.LONGEST_MESSAGE:
        raise errors.exhausted(f"expected an answer of at most {channels.LONGEST_MESSAGE} bytes, got {len(reply)}")
    return reply


class _Inference:
    """What a replica answers to a front, and to a client that comes without one."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def ServerLive(self, request: pb.ServerLiveRequest, context: ServicerContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: ServicerContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._replica.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: ServicerContext) -> pb.ModelReadyResponse:
        state = self._replica.listed(request.name, request.version)
        return pb.ModelReadyResponse(ready=state is not None and state.state == "READY")

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: ServicerContext
    ) -> pb.ModelMetadataResponse:
        async with _Statuses("ModelMetadata", context):
            state = self._replica.listed(request.name, request.version)
            if state is None:
                raise errors.not_found(f"unknown model {request.name!r} of version {request.version or 'any'!r}")
            return kserve.model_metadata(state.name, [state.version], state.inputs, state.outputs)


class _Statuses:
    """Around the body of a call: its errors become statuses."""

    def __init__(self, method: str, context: ServicerContext) -> None:
        self._method, self._context = method, context

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, errors.RequestError):
            await errors.abort(self._context, error)
        if isinstance(error, Exception):
            _log.error("%s", self._method, exc_info=error)
            await errors.abort(self._context, errors.internal("an unexpected error, see the replica's log"))


class _Begun:
    """Around the work on a request that was read: says that it has begun, unless it ends at once."""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context
        self._saying: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(AT_ONCE_S, self._start)

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._saying is not None:  # the answer must not overtake it
            await self._saying

    def _start(self) -> None:
        self._saying = asyncio.create_task(self._say())

    async def _say(self) -> None:
        with contextlib.suppress(Exception):  # the caller has left
            await self._context.send_initial_metadata((errors.BEGUN,))


class _Internal:
    def __init__(self, metrics: ReplicaMetrics) -> None:
        self._metrics = metrics

    async def Metrics(self, request: fleet_pb2.MetricsRequest, context: ServicerContext) -> fleet_pb2.MetricsReply:
        return fleet_pb2.MetricsReply(text=self._metrics.text())
