"""Rewards that their owners serve over gRPC (tiltserve.v1.Reward); requests that use one together share its calls.

Fingerprints do not cover them: a service may score differently tomorrow. So its scores of a bank are remembered for a
limited time only, and the fingerprint of an answer ends in `remote`.
"""

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from protos.tiltserve.v1 import reward_pb2, reward_pb2_grpc, tensor_pb2
from serving.access.service import Service, service
from serving.backends import Array
from serving.backends.costs import Costs
from serving.engine.scheduler import Queue, Slice, Work
from serving.rewards import PREFIX
from serving.rewards.external import ExternalReward, Once, check_scores, most_rows
from serving.rewards.reward import came
from serving.supervised import Supervised
from serving.watching.record import Record, asking_for, current
from serving.wire import channels, errors
from serving.wire.errors import RequestError
from serving.wire.tensors import Given, tensor, value

_log = logging.getLogger(__name__)

# three seconds in all: a service may restart within them and no request fails
_CHANNEL = channels.to_service(
    reward_pb2.DESCRIPTOR.services_by_name["Reward"].full_name,
    attempts=5,
    first_ms=200,
    longest_ms=2_000,
    longest_reply=2**16,  # a call has some thousand scores, and a reply is parsed on the event loop
)

AGAIN_S = 0.1
"""Seconds after a fault in a line before its next call."""
LINGER_S, LINGER_SHARE = 0.02, 0.25
"""How long a call waits for requests that shared the last call: in seconds, and as a share of the last call's time."""


Ask = Callable[[Array, Sequence[Record]], Coroutine[Any, Any, Array]]
"""The scores [rows] of candidates [rows, *event] of these requests."""


class RemoteRewards:
    """The configured rewards by name. Make it and use it on one event loop.

    Args:
        addresses: host:port, or more of the server, by name; requests can name rewards, never addresses.
        seconds: how long one call may take, retries included.
        remembered_s: how long scores of a bank are used again; 0 for never.
    """

    def __init__(
        self, addresses: Mapping[str, str | Service], *, seconds: float = 30.0, remembered_s: float = 600.0
    ) -> None:
        self.definitions = {
            name: RemoteDefinition(name, service(where), seconds, remembered_s) for name, where in addresses.items()
        }

    async def close(self) -> None:
        """Ends every call and connection."""
        for definition in self.definitions.values():
            await definition.close()


class RemoteDefinition:
    """One reward at its owner's address; it takes any arguments, and its owner judges them."""

    def __init__(self, name: str, where: Service, seconds: float, remembered_s: float) -> None:
        self.name, self._seconds, self._remembered_s = name, seconds, remembered_s
        self._loop = asyncio.get_running_loop()
        self._where, self._channel = where, where.channel(_CHANNEL)
        self._score = reward_pb2_grpc.RewardStub(self._channel).Score
        self._lines = weakref.WeakValueDictionary[tuple[object, ...], Line]()

    def takes(self, given: Mapping[str, Given]) -> Sequence[str]:
        """Implements `Definition.takes`: exactly the arguments that are given."""
        return list(given)

    def bind(self, given: Mapping[str, Given]) -> ExternalReward:
        """Implements `Definition.bind`."""
        request = reward_pb2.ScoreRequest(reward=self.name, arguments=self._arguments(given))
        exact = request.SerializeToString(deterministic=True)
        # keys of one period of `remembered_s` seconds differ from those of the next: a key cannot know its age
        period = int(time.monotonic() // self._remembered_s) if self._remembered_s else Once()
        rider = Rider(lambda event: self._line(exact, event))
        return ExternalReward(self.name, ("remote", exact, period), "remote", rider.ask, self._loop)

    def _arguments(self, given: Mapping[str, Given]) -> Mapping[str, tensor_pb2.Value]:
        found = dict[str, tensor_pb2.Value]()
        for name, each in given.items():
            try:
                found[name] = value(each)
            except ValueError:  # expressions may hold any number, and halves of characters
                raise errors.invalid(
                    f"{PREFIX}{name} of reward {self.name!r}: expected an integer of 64 bits or text in UTF-8, "
                    f"got {came(each)}"
                ) from None
        return found

    async def close(self) -> None:
        await self._channel.close()

    def _line(self, exact: bytes, event: tuple[int, ...]) -> "Line":
        """The queue of candidates of one shape for one set of arguments; it exists while a request holds it."""
        line = self._lines.get((exact, event))
        if line is None:
            line = Line(self.name, lambda x, records: self._ask(exact, x, records), most_rows(event))
            self._lines[exact, event] = line
        return line

    async def _ask(self, exact: bytes, x: Array, records: Sequence[Record]) -> Array:
        """One call: the scores [rows] of candidates [rows, *event], of these requests."""
        request = reward_pb2.ScoreRequest.FromString(exact)
        request.candidates.CopyFrom(tensor(x))
        try:
            with asking_for(records, "Score", reward=self.name, rows=len(x)) as metadata:
                reply = await self._score(
                    request, timeout=self._seconds, metadata=(*metadata, *self._where.headers.items())
                )
        except grpc.aio.AioRpcError as error:
            _log.warning("reward %r: %s: %s", self.name, error.code().name, error.details())
            raise self._told(error, len(x)) from None
        if len(reply.scores) != len(x):
            raise errors.failed_precondition(f"reward {self.name!r}: expected {len(x)} scores, got {len(reply.scores)}")
        return np.array(reply.scores, np.float32)

    def _told(self, error: grpc.aio.AioRpcError, rows: int) -> RequestError:
        """The error for the caller; it does not tell where the service is."""
        code, expected = error.code(), f"reward {self.name!r}: expected scores of {rows} candidates"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.unavailable(f"{expected} from its service within {self._seconds:g} s, got none")
        if code is grpc.StatusCode.UNAVAILABLE:
            return errors.unavailable(f"{expected}, its service cannot be reached")
        return errors.failed_precondition(f"{expected} from its service, got {code.name}: {error.details()}")


class Rider:
    """A request in the queue of its reward."""

    def __init__(self, line: "Callable[[tuple[int, ...]], Line]") -> None:
        self._find, self._line = line, dict[tuple[int, ...], Line]()
        self.record = current()

    async def ask(self, x: Array) -> Array:
        """The scores of candidates [rows, *event]."""
        event = x.shape[1:]
        if event not in self._line:
            self._line[event] = self._find(event)
        return await self._line[event].score(self, x)


@dataclass(eq=False)
class Asked:
    """Candidates [rows, *event] of a request, the scores [rows] received so far, and the number still missing."""

    rider: Rider
    x: Array
    scores: Array
    missing: int
    done: "asyncio.Future[Array]"


class Line:
    """Candidates waiting for one reward. One call at a time takes up to `most` rows, a share from each request.

    The next call waits a moment for the requests of the last one. Otherwise two requests would take turns, one being
    computed while the other is scored, and never share a call.
    """

    def __init__(self, reward: str, ask: Ask, most: int) -> None:
        self._reward, self._ask = reward, ask
        self._queue = Queue[Asked]()
        self._costs = Costs({most: 1.0})  # the cost of rows is unknown there
        self._riders = weakref.WeakSet[Rider]()  # of the last call; requests that ended are not waited for
        self._took = 0.0
        self._came = asyncio.Event()
        self._aboard: Sequence[Asked] = ()
        self._call: asyncio.Task[Array] | None = None
        self._running: Supervised | None = None

    async def score(self, rider: Rider, x: Array) -> Array:
        """The scores of a request's candidates. Cancelling it takes them out of the queue, and ends a call that no
        other request awaits."""
        future = asyncio.get_running_loop().create_future()
        asked = Asked(rider, x, np.empty(len(x), np.float32), len(x), future)
        self._queue.add(asked, len(x), now=time.monotonic(), work=Work(len(x), len(x)))  # a row may cost anything
        self._came.set()
        if self._running is None or self._running.ended:
            self._running = Supervised(f"calls for reward {self._reward!r}", self._run, AGAIN_S)
        try:
            return await asked.done
        finally:
            self._drop(asked)

    async def _run(self) -> None:
        """Call after call, until nobody waits. Where it fails, so do the requests of the call; others wait on."""
        try:
            while self._queue:
                await self._gather()
                if slices := self._queue.pack(time.monotonic(), self._costs).slices:
                    self._riders = weakref.WeakSet(each.owner.rider for each in slices)
                    await self._ride(slices)
        except Exception:
            for asked in self._aboard:
                self._fail(asked, errors.internal(f"reward {self._reward!r}: its call failed inside the replica"))
            raise

    async def _gather(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(LINGER_S, LINGER_SHARE * self._took)):
                while set(self._riders) - {each.rider for each in self._queue.owners}:
                    self._came.clear()
                    await self._came.wait()

    async def _ride(self, slices: Sequence[Slice[Asked]]) -> None:
        """One call for rows of many requests; one request's candidates must not fail the others'."""
        self._aboard = [each.owner for each in slices]
        began = time.monotonic()
        self._call = asyncio.create_task(self._scores(slices))
        await asyncio.wait({self._call})
        self._took = time.monotonic() - began
        if self._call.cancelled():
            return
        error = self._call.exception()
        if error is None:
            self._deliver(slices, self._call.result())
        elif len(slices) > 1 and not (isinstance(error, RequestError) and error.code is grpc.StatusCode.UNAVAILABLE):
            for each in slices:
                if not each.owner.done.done():
                    await self._ride([each])
        else:
            for each in slices:
                self._fail(each.owner, error)

    async def _scores(self, slices: Sequence[Slice[Asked]]) -> Array:
        records = dict.fromkeys(each.owner.rider.record for each in slices)
        return await self._ask(
            np.concatenate([each.owner.x[each.first : each.stop] for each in slices]), [*filter(None, records)]
        )

    def _deliver(self, slices: Sequence[Slice[Asked]], scores: Array) -> None:
        row = 0
        for each in slices:
            count, asked = each.stop - each.first, each.owner
            asked.scores[each.first : each.stop] = scores[row : row + count]
            asked.missing -= count
            row += count
            if not asked.missing and not asked.done.done():
                try:
                    check_scores(self._reward, asked.scores)
                except RequestError as error:
                    self._fail(asked, error)
                else:
                    asked.done.set_result(asked.scores)

    def _fail(self, asked: Asked, error: BaseException) -> None:
        if not asked.done.done():
            asked.done.set_exception(error)
        self._drop(asked)

    def _drop(self, asked: Asked) -> None:
        """Take a request's candidates out of the queue; cancel a running call if no other request has rows in it."""
        self._queue.drop(asked)
        if self._call is not None and all(each.done.done() for each in self._aboard):
            self._call.cancel()
