"""The model repository over the wire: what there is, and which of it is loaded."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Mapping, Sequence

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from serving.access.caller import caller
from serving.fleet.directory import ReplicaState
from serving.front.links import Links
from serving.front.part import Answer
from serving.front.roster import Roster
from serving.front.router import version_order
from serving.front.summary import Summary, summaries
from serving.wire import errors

_log = logging.getLogger(__name__)
NOT_LOADED = "not loaded"
"""Why a version is not there that was written since models were loaded last."""
FOLDERS_S = 5.0
"""Seconds in which a replica says what lies in the repository."""


class Repository:
    """RepositoryIndex from the front's copy of the directory, and what else lies in the repository; RepositoryModelLoad
    and RepositoryModelUnload by telling all replicas.

    A change that was begun is finished, also if the client leaves: replicas must not end in different states.

    Args:
        allowed: whether clients may load and unload models.
    """

    def __init__(self, roster: Roster, links: Links, *, allowed: bool) -> None:
        self._roster, self._links, self._allowed = roster, links, allowed
        self._changes: set[asyncio.Task[None]] = set()
        self.answers: Mapping[str, Answer] = {
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        """By the name of the method."""

    @property
    def extensions(self) -> Sequence[str]:
        """Of KServe v2, as ServerMetadata lists them: those of which every RPC works."""
        return ("model_repository", "model_repository(unload_dependents)") if self._allowed else ()

    async def _index(self, request: pb.RepositoryIndexRequest) -> Message:
        _one_repository(request.repository_name)
        index = self._roster.index
        found = [each for name in index.models for each in summaries(index, name)]
        if not request.ready:
            known = {(each.name, each.version) for each in found}
            found += [
                Summary(name, version, "network", "UNAVAILABLE", NOT_LOADED, 0)
                for name, version in await self._folders(index.replicas)
                if (name, version) not in known and caller().sees(name)
            ]
            found.sort(key=lambda each: (each.name, version_order(each.version)))
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=each.name, version=each.version, state=each.state, reason=each.reason
                )
                for each in found
                if each.state == "READY" or not request.ready
            ]
        )

    async def _folders(self, replicas: Sequence[ReplicaState]) -> list[tuple[str, str]]:
        """What lies in the repository, as some replica sees it; nothing where none tells in time."""
        up = [each for each in replicas if not each.draining]
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await self._links.to(random.choice(up)).folders(FOLDERS_S) if up else []
        return []

    async def _load(self, request: pb.RepositoryModelLoadRequest) -> Message:
        self._permit("RepositoryModelLoad", request.repository_name, request.model_name)
        for name in request.parameters:
            if name == "config" or name.startswith("file:"):
                raise errors.invalid(
                    f"parameter {name!r}: expected none, a model is what the files of its folder are: write them there "
                    "and load it again"
                )
            raise errors.invalid(f"unknown parameter {name!r}, expected none")
        await self._change(request.model_name, loaded=True)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: pb.RepositoryModelUnloadRequest) -> Message:
        self._permit("RepositoryModelUnload", request.repository_name, request.model_name)
        for name, value in request.parameters.items():
            if name != "unload_dependents":
                raise errors.invalid(f"unknown parameter {name!r}, expected unload_dependents or none")
            if (came := value.WhichOneof("parameter_choice")) != "bool_param":
                raise errors.invalid(f"parameter {name!r}: expected a bool, got {came or 'no value'}")
        # nothing depends on a model but its raw network, which goes with it in any case
        await self._change(request.model_name, loaded=False)
        return pb.RepositoryModelUnloadResponse()

    def _permit(self, method: str, repository: str, model: str) -> None:
        if not self._allowed:
            raise errors.model_control(method)
        _one_repository(repository)
        if not caller().sees(model):  # nor does it exist for him if it lies in the repository and is not loaded
            raise errors.not_found(f"unknown model {model!r}: the repository has no such folder of a model")

    async def _change(self, name: str, *, loaded: bool) -> None:
        change = asyncio.create_task(self._tell_all(name, loaded))
        self._changes.add(change)
        change.add_done_callback(self._over)
        await asyncio.shield(change)

    def _over(self, change: asyncio.Task[None]) -> None:
        self._changes.discard(change)
        if not change.cancelled():
            change.exception()  # the client may have left

    async def _tell_all(self, name: str, loaded: bool) -> None:
        """Have every replica do it, and read the list again; raises RequestError with what went wrong where."""
        replicas = [each for each in self._roster.index.replicas if not each.draining]
        if not replicas:
            raise errors.unavailable(f"model {name!r}: no replica is up")
        began = time.monotonic()
        # a later change has a larger number than an earlier one, whichever front had it
        known = (wish.revision for each in replicas for wish in each.wishes if wish.name == name)
        revision = max(time.time_ns(), 1 + max(known, default=0))
        results = await asyncio.gather(*(self._tell(each, name, revision, loaded) for each in replicas))
        await self._roster.refresh()
        failed = {
            each.id: result
            for each, result in zip(replicas, results, strict=True)
            if isinstance(result, errors.RequestError)
        }
        done = [each for each in results if isinstance(each, int)]
        what = "loaded" if loaded else "unloaded"
        if failed:
            raise _failed(name, what, failed, len(done))
        if not done:
            raise errors.unavailable(f"model {name!r}: every replica was lost before it was {what}")
        waited = f", after {sum(done)} running requests" if sum(done) else ""
        _log.info("model %s: %s on %d replicas in %.1f s%s", name, what, len(done), time.monotonic() - began, waited)

    async def _tell(
        self, replica: ReplicaState, name: str, revision: int, loaded: bool
    ) -> int | errors.RequestError | None:
        """How many requests it waited for, its error, or None for a replica that was lost: the one that takes its place
        hears of the change from the directory."""
        try:
            return await self._links.to(replica).change_model(name, revision, loaded=loaded)
        except grpc.aio.AioRpcError as error:
            if errors.answered(error):
                return errors.RequestError(error.code(), error.details() or "")
            _log.warning("replica %s: lost while model %r was changed: %s", replica.id, name, error.details())
            return None


def _failed(name: str, what: str, failed: Mapping[str, errors.RequestError], done: int) -> errors.RequestError:
    """The error of a change that failed on some replicas; their own one if that is all that there is to say."""
    first, *others = failed.values()
    if not done and all((each.code, each.detail) == (first.code, first.detail) for each in others):
        return first
    why = "; ".join(f"replica {replica}: {error.detail}" for replica, error in failed.items())
    return errors.RequestError(first.code, f"model {name!r}: {what} on {done} of {done + len(failed)} replicas; {why}")


def _one_repository(name: str) -> None:
    if name:
        raise errors.unimplemented(f"repository_name: expected none, there is one repository, got {name!r}")
