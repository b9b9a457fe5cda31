"""What a replica answers requests with: its models, rewards and engine."""

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from grpc.aio import ServicerContext

from serving.access.caller import caller
from serving.engine.engine import Engine
from serving.engine.metrics import ReplicaMetrics
from serving.engine.task import Task
from serving.fleet.directory import ModelState
from serving.models.loaded import LoadedModels
from serving.models.model import PlainModel
from serving.models.pipeline import AnyModel
from serving.models.versions import anything
from serving.replica.counting import Counting
from serving.requests import distillation, job
from serving.requests.previews import Part
from serving.requests.trajectory import Room
from serving.rewards import Definition
from serving.rewards.remote import RemoteRewards
from serving.watching.record import current
from serving.watching.watching import Watching
from serving.wire import errors, kserve
from serving.wire.answer import Answer
from serving.wire.aside import aside
from serving.wire.channels import Connections
from serving.wire.distillation import Distilled, Tensors, Wanted
from serving.wire.kserve import InferRequest
from serving.wire.parameters import timeout_s
from serving.wire.streams import Streams, UnderWay


class Answering:
    """Answers requests; make it and use it on one event loop.

    Attributes:
        streams, under_way: the calls of the replica's server.
        draining: it takes no new requests.
        watching: who is told of each call.
        connections: how long a message may be.
    """

    def __init__(
        self,
        models: LoadedModels,
        rewards: RemoteRewards,
        engine: Engine,
        metrics: ReplicaMetrics,
        watching: Watching | None = None,
        connections: Connections | None = None,
    ) -> None:
        self._models, self._rewards, self._engine, self._metrics = models, rewards, engine, metrics
        self.streams, self.under_way = Streams(), UnderWay()
        self.draining = False
        self.watching = watching or Watching()
        self.connections = connections or Connections()

    @property
    def ready(self) -> bool:
        """Whether it takes requests for some model."""
        return not self.draining and any(each.state == "READY" for each in self._models.states())

    def counting(self) -> Counting:
        """Around the work on one request that has just come."""
        return Counting(self._metrics.statistics, self.listed)

    @property
    def served(self) -> list[tuple[str, str]]:
        """The name and the version of every model that it has for this caller, loaded or not."""
        return [(each.name, each.version) for each in self._models.states() if caller().sees(each.name)]

    def listed(self, name: str, version: str = "") -> ModelState | None:
        """What the directory is told of a model, of its newest ready version if none is asked for; None where it has no
        such name or version for this caller."""
        known = self._models.states() if caller().sees(name) else ()
        states = (each for each in known if each.name == name and version in ("", each.version))
        return max(reversed([*states]), key=lambda each: each.state == "READY", default=None)

    def model(self, name: str, version: str = "") -> AnyModel:
        """The model of that name; NOT_FOUND or UNAVAILABLE where it cannot be used."""
        return self._models.model(name, version, _seen())

    async def answer(
        self,
        request: InferRequest,
        size: int,
        context: ServicerContext,
        rewards: Mapping[str, Definition] = MappingProxyType({}),
        counting: Counting | None = None,
        deliver: Callable[[AnyModel, Part], Room | None] | None = None,
    ) -> tuple[AnyModel, Answer]:
        """Run a request that came in so many bytes. If the caller leaves, its rows leave the engine.

        Args:
            rewards: by name, beside those that are configured.
            counting: is told how far it is.
            deliver: takes what comes before the answer, as `job.task_for`'s does; None where nothing can.

        Raises:
            RequestError: the caller's or the engine's fault, as a status.
        """
        deadline = self._deadline(request, context)
        async with self._models.holding(request, _seen()) as held:
            model = held.model
            kserve.check_outputs(request.outputs, job.output_names(model))
            if not isinstance(model, PlainModel):  # a front has drawn one; who comes without one may have not
                request.parameters.setdefault("seed", secrets.randbelow(2**63))
            before = None if deliver is None else partial(deliver, model)
            longest, remotes = self.connections.longest_answer, self._remotes(rewards)
            task = await aside(
                size, lambda: job.task_for(request, model, held.models, remotes, deadline, before, longest)
            )
            answer: Answer = await self._run(task, model, request, counting)
        self._metrics.answered(model.name, answer.steering, answer.parameters.get("ess"))
        return model, answer

    async def gradient(
        self,
        wanted: Wanted,
        request: InferRequest,
        tensors: Tensors,
        size: int,
        context: ServicerContext,
        counting: Counting,
    ) -> Distilled:
        """Run a request for a gradient that came in so many bytes, as `answer`.

        Args:
            request: what it shares with a request for inference.
            tensors: its others.
        """
        deadline = self._deadline(request, context)
        settings, others = wanted.settings(), [(each.model, each.version) for each in wanted.models[1:]]
        async with self._models.holding(request, _seen(), others) as held:
            priors = [
                distillation.Prior(model, each.weight)
                for model, each in zip((held.model, *held.others), wanted.models, strict=True)
            ]
            remotes = self._remotes()
            task = await aside(
                size, lambda: distillation.task_for(request, settings, tensors, priors, held.models, remotes, deadline)
            )
            answer: Distilled = await self._run(task, held.model, request, counting)
        self._metrics.answered(held.model.name, answer.steering, answer.parameters.get("ess"))
        return answer

    def _deadline(self, request: InferRequest, context: ServicerContext) -> float:
        """When nobody wants the answer any more; UNAVAILABLE where no new request is taken."""
        if self.draining:
            raise errors.draining("the replica is stopping")
        limits = context.time_remaining(), timeout_s(request.parameters.get("timeout", 0))
        return time.monotonic() + min((limit for limit in limits if limit is not None), default=math.inf)

    def _remotes(self, rewards: Mapping[str, Definition] = MappingProxyType({})) -> Mapping[str, Definition]:
        """The rewards that are scored elsewhere, and that exist for this caller."""
        return {**{name: each for name, each in self._rewards.definitions.items() if caller().sees(name)}, **rewards}

    async def _run(self, task: Task, model: AnyModel, request: InferRequest, counting: Counting | None) -> Any:
        """What the engine answers; raises RequestError."""
        if counting is not None:
            counting.submitted(model, task)
        task.identity = caller().name
        if (record := current()) is not None:
            record.model, record.version, record.rows = model.name, model.version, task.network_rows
            record.task, task.request_id = task, record.id
            record.tells(request.parameters)
        try:
            answer: Answer = await asyncio.wrap_future(self._engine.submit(task))
        except Exception as error:
            raise job.request_error(error, task.hint) from error
        if counting is not None:
            counting.answered(answer)
        if record is not None:
            record.tells(answer.parameters)
        return answer


def _seen() -> Callable[[str], bool]:
    """Which models exist for this caller; for one who sees all of them nothing is looked through."""
    who = caller()
    return anything if who.sees_all else who.sees
