"""ModelStatistics: what the replicas count, summed, and what fails before a replica takes it on."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from serving.fleet.directory import ReplicaState
from serving.front import router
from serving.front.links import Links
from serving.front.part import Answer
from serving.front.roster import Roster
from serving.wire import errors

ANSWER_S = 2.0
"""Seconds in which a replica tells what it has counted."""
_INFERENCE = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
_RESPONSE = ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel")
_BATCH = ("compute_input", "compute_infer", "compute_output")

Served = tuple[str, str]


class ModelStatistics:
    """The RPC, and the failures of this front.

    Counts are those of the replicas that run now, and of this front: they begin anew where a process does.
    """

    extensions = ("statistics",)

    def __init__(self, roster: Roster, links: Links) -> None:
        self._roster, self._links = roster, links
        self._failures: dict[Served, pb.ModelStatistics] = {}
        self.answers: Mapping[str, Answer] = {"ModelStatistics": self._answer}

    @contextlib.contextmanager
    def failures(self, model: str, version: str) -> Iterator[None]:
        """Around the work on a request for a model: counts it if it fails here and nobody else has counted it."""
        began = time.monotonic()
        try:
            yield
        except errors.RequestError as error:
            if not error.counted:
                error.counted = True
                self._failed(model, version, time.monotonic() - began)
            raise

    def _failed(self, model: str, version: str, seconds: float) -> None:
        """A request failed; it counts where it names a model that there is."""
        listed = self._roster.index.models.get(model)
        if listed is None:
            return
        versions = router.versions(listed.states)
        if version and version not in versions:
            return
        served = model, version or versions[-1]
        found = self._failures.setdefault(served, pb.ModelStatistics(name=served[0], version=served[1]))
        found.last_inference = int((time.time() - seconds) * 1000)
        found.inference_stats.fail.count += 1
        found.inference_stats.fail.ns += round(seconds * 1e9)

    async def _answer(self, request: pb.ModelStatisticsRequest) -> Message:
        index = self._roster.index
        if request.name:
            wanted = {(request.name, each.model.version) for each in router.held(index, request.name, request.version)}
        elif request.version:
            raise errors.invalid(f"version: expected a name of a model beside it, got {request.version!r} alone")
        else:
            wanted = {(name, each.version) for name, listed in index.models.items() for each in listed.states}
        replies = await asyncio.gather(*(self._asked(replica) for replica in index.replicas))
        counted = [*(each for reply in replies for each in reply.model_stats), *self._failures.values()]
        return pb.ModelStatisticsResponse(
            model_stats=[
                _sum(served, (each for each in counted if (each.name, each.version) == served))
                for served in sorted(wanted, key=lambda each: (each[0], router.version_order(each[1])))
            ]
        )

    async def _asked(self, replica: ReplicaState) -> pb.ModelStatisticsResponse:
        try:
            return await self._links.to(replica).statistics(ANSWER_S)
        except grpc.aio.AioRpcError as error:
            told = f"replica {replica.id} does not tell what it has counted: {error.code().name}"
            raise errors.unavailable(told) from None


def _sum(served: Served, counted: Iterable[pb.ModelStatistics]) -> pb.ModelStatistics:
    """The counts of one version of a model, in all."""
    whole = pb.ModelStatistics(name=served[0], version=served[1])
    batches: dict[int, pb.InferBatchStatistics] = {}
    memory: dict[tuple[str, int], int] = {}
    for each in counted:
        whole.last_inference = max(whole.last_inference, each.last_inference)
        whole.inference_count += each.inference_count
        whole.execution_count += each.execution_count
        _add(whole.inference_stats, each.inference_stats, _INFERENCE)
        for key, responses in each.response_stats.items():
            _add(whole.response_stats[key], responses, _RESPONSE)
        for batch in each.batch_stats:
            same = batches.setdefault(batch.batch_size, pb.InferBatchStatistics(batch_size=batch.batch_size))
            _add(same, batch, _BATCH)
        for usage in each.memory_usage:
            memory[usage.type, usage.id] = memory.get((usage.type, usage.id), 0) + usage.byte_size
    whole.batch_stats.extend(batches[size] for size in sorted(batches))
    whole.memory_usage.extend(_usages(memory))
    return whole


def _add(whole: Message, part: Message, names: Sequence[str]) -> None:
    for name in names:
        total, more = getattr(whole, name), getattr(part, name)
        total.count, total.ns = total.count + more.count, total.ns + more.ns


def _usages(memory: Mapping[tuple[str, int], int]) -> Iterator[pb.MemoryUsage]:
    return (pb.MemoryUsage(type=kind, id=number, byte_size=size) for (kind, number), size in sorted(memory.items()))
