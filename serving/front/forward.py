"""Sends a request to one replica, and again to an equal one if the channel to it breaks."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import grpc

from serving.access.caller import NO_LIMITS, caller
from serving.access.limits import Usage
from serving.fleet.directory import ModelState
from serving.front import router
from serving.front.asked import Asked, AskedGradient
from serving.front.deadline import Deadline
from serving.front.links import Link, Links
from serving.front.metrics import FrontMetrics
from serving.front.roster import Roster
from serving.front.router import Beside, Route
from serving.front.statistics import ModelStatistics
from serving.watching.record import current, note_times, phase
from serving.wire import distillation, errors, interactive, kserve
from serving.wire.streamed import NOTHING, Place

Reply = TypeVar("Reply")

REPLAYS = 2
"""Most repetitions of a request: one that kills its replica must not kill the whole fleet."""
UNBEGUN_REPLAYS = 1
"""Most repetitions of a request with which its replica had not begun: it may be what the replica died of."""
UNBEGUN_S = 5.0
"""Seconds in which a replica that is well begins with a request."""
CLEARLY_LESS = 0.5
"""A replica with at most this share of the load of one that refused a request may take it."""

# What gRPC itself reports when the peer's process or connection ends. UNKNOWN is not among them: it means an exception
# in a live process.
_BROKEN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL}


class Forwarder:
    """Sends requests for inference to replicas.

    A sample is a pure function of the request, its seed and the replica's fingerprint. So a seed is drawn here, before
    the first try, and a request whose replica is lost is repeated on one with the same fingerprint: the client gets the
    same bytes. It waits for such a replica to appear, for up to `replay_wait_s` seconds and never past the deadline.
    """

    def __init__(
        self,
        roster: Roster,
        links: Links,
        metrics: FrontMetrics,
        replay_wait_s: float,
        statistics: ModelStatistics,
    ) -> None:
        self._roster, self._links, self._metrics, self.statistics = roster, links, metrics, statistics
        self._replay_wait_s = replay_wait_s
        self._usage = Usage()
        self._stopping = False

    def stop(self) -> None:
        """From now on new requests are refused; those under way go on."""
        self._stopping = True

    async def infer(self, asked: Asked, data: bytes, deadline: Deadline) -> bytes:
        """The replica's serialised response to the serialised ModelInferRequest `data`, of which `asked` was read.

        Raises:
            RequestError: the replica's own; NOT_FOUND or UNAVAILABLE if no replica can answer; DEADLINE_EXCEEDED;
                RESOURCE_EXHAUSTED beyond a limit of the caller's.
        """
        target = self._admit(asked)
        data, rows = _settled(target, asked, data)
        with self._counted(target, asked, rows, len(data)):
            return await self._send(target, deadline, lambda link: link.infer(data, rows, deadline.left()))

    async def stream(
        self, asked: Asked, data: bytes, write: Callable[[bytes, Place], Awaitable[None]], deadline: Deadline
    ) -> bytes:
        """As `infer`, for a request that may have several responses: the last one, a serialised
        ModelStreamInferResponse; those before it go to `write`.

        When the request is repeated on an equal replica, what was written is not written again: responses come in one
        order of their places, and equal replicas send equal ones.
        """
        delivered = NOTHING

        async def deliver(reply: bytes, place: Place) -> None:
            nonlocal delivered
            if place.order > delivered.order:
                delivered = place
                await write(reply, place)

        target = self._admit(asked)
        data, rows = _settled(target, asked, data)

        def send(link: Link) -> Awaitable[bytes]:
            # after a first response no newer version may go on with it; until then the replica chooses, as for `infer`
            again = data if delivered is NOTHING else kserve.with_version(data, target.model.version)
            return link.stream(again, rows, deliver, deadline.left())

        with self._counted(target, asked, rows, len(data)):
            return await self._send(target, deadline, send)

    async def gradient(self, asked: AskedGradient, data: bytes, deadline: Deadline) -> bytes:
        """The replica's serialised GradientResponse to the serialised GradientRequest `data`, as `infer`.

        A gradient leaves nothing behind on a replica, so it may always be asked for again: of several models, where all
        have the same fingerprints.
        """
        target = self._admit(asked, [Beside(each.model, each.version) for each in asked.others])
        rows, beside = asked.rows(target.model.draws), list[Beside]()
        for other in asked.others:
            if (model := Beside(other.model, other.version).on(target.replica)) is not None:
                rows += asked.rows(model.draws)
                beside.append(Beside(other.model, other.version, model.fingerprint))
        if target.pinned:
            data = distillation.with_version(data, target.model.version)

        def send(link: Link) -> Awaitable[bytes]:
            return link.gradient(data, rows, deadline.left())

        with self._counted(target, asked, rows, len(data)):
            return await self._send(target, deadline, send, beside=beside)

    async def interact(
        self,
        asked: Asked,
        first: bytes,
        requests: AsyncIterator[bytes],
        write: Callable[[bytes], Awaitable[None]],
        deadline: Deadline,
    ) -> None:
        """A stream of candidates and scores, begun by `first`, a message with a seed of which `asked` was read.

        Repeated on another replica only while nothing was written: the client's scores are not asked for twice.

        Raises:
            RequestError: as `infer`.
        """
        written = False

        async def note(reply: bytes) -> None:
            nonlocal written
            written = True
            await write(reply)

        target = self._admit(asked)
        rows = asked.rows(target.model.draws, target.model.solves)
        opening = interactive.with_version(first, target.model.version) if target.pinned else first
        with self._counted(target, asked, rows, len(first)):
            await self._send(
                target,
                deadline,
                lambda link: link.interact(opening, rows, requests, note, deadline.left()),
                lambda: not written,
            )

    @contextlib.contextmanager
    def _counted(self, target: Route, asked: Asked | AskedGradient, rows: int, size: int) -> Iterator[None]:
        """Around a request's work: it is held against the caller's limits, and counts as under way."""
        who = caller()
        known = target.model.draws, target.model.solves
        sizes = {} if who.limits == NO_LIMITS else asked.sizes(size, *known)
        with self._usage.of(who, sizes, rows):
            yield

    def _admit(self, asked: Asked | AskedGradient, beside: Sequence[Beside] = ()) -> Route:
        if self._stopping:
            raise errors.not_begun("the server is stopping and takes no new requests")
        with phase("route"):
            return self._choose(asked.model, asked.version, beside=beside)

    async def _send(
        self,
        target: Route,
        deadline: Deadline,
        send: Callable[[Link], Awaitable[Reply]],
        repeatable: Callable[[], bool] = lambda: True,
        beside: Sequence[Beside] = (),
    ) -> Reply:
        """The result of `send` to the target, or to an equal replica if the target is lost while the request is
        `repeatable`. An equal one has the models `beside` too.

        If the target has too much to do, an equal replica with clearly less to do is asked, once. A request with which
        its replica had not begun when it stopped answering is not sent on: it may be what stopped the replica. Where
        the replica's machine is out of reach it was not.
        """
        name = target.model.name
        tried: set[str] = set()
        refused, unbegun = False, 0
        for replay in range(REPLAYS + 1):
            if replay:
                target = await self._another(target.model, tried, deadline, beside)
                self._metrics.replays.labels(name).inc()
            sent = time.monotonic()
            try:
                try:
                    return await self._try(target, send)
                except grpc.aio.AioRpcError as error:
                    other = None if refused or not _refused(error) else self._less_loaded(target, beside)
                    if other is None:
                        raise
                    target, refused = other, True
                    return await self._try(target, send)
            except grpc.aio.AioRpcError as error:
                if errors.answered(error) or error.code() not in _BROKEN:
                    raise _as_answered(error, name) from None
                if deadline.past:  # a call without time ends in any of these ways, which says nothing of its replica
                    raise _late(name) from None
                cause = error
            silent = self._roster.silent(target.replica.id) or time.monotonic() - sent > UNBEGUN_S
            self._metrics.fleet.gave_up(target.replica.id)
            self._roster.lose(target.replica.id)
            tried.add(target.replica.id)
            if not (errors.begun(cause) or errors.left(cause) or errors.unsent(cause)):
                unbegun += 1
                if (silent and not errors.cut_off(cause)) or unbegun > UNBEGUN_REPLAYS:
                    lost = "its replica" if unbegun == 1 else f"{unbegun} replicas"
                    raise errors.unavailable(f"model {name!r}: {lost} ended without having begun with the request")
            if not repeatable():
                raise errors.unavailable(f"model {name!r}: its replica was lost between two batches of candidates")
        raise errors.unavailable(f"model {name!r}: lost {REPLAYS + 1} replicas under it: {cause.details()}")

    async def _try(self, target: Route, send: Callable[[Link], Awaitable[Reply]]) -> Reply:
        """The result of `send` to one replica, noted in the request's record."""
        link = self._links.to(target.replica)
        if (record := current()) is None:
            return await send(link)
        record.version, record.tries = target.model.version, record.tries + 1
        with record.asking("forward", replica=target.replica.id, attempt=record.tries) as record.outgoing:
            try:
                return await send(link)
            except grpc.aio.AioRpcError as error:
                note_times(error.trailing_metadata())
                raise

    async def _another(self, model: ModelState, tried: set[str], deadline: Deadline, beside: Sequence[Beside]) -> Route:
        """A replica with the same fingerprint: one that was not tried if there is any, else one that came back."""
        try:
            async with asyncio.timeout(deadline.within(self._replay_wait_s)):
                while True:
                    for exclude in (tried, set[str]()):
                        with contextlib.suppress(errors.RequestError):
                            return self._choose(model.name, model.version, model.fingerprint, exclude, beside)
                    await self._roster.changed()
        except TimeoutError:
            lost = f"model {model.name!r}: its replica was lost and no other with the same fingerprint came"
            if deadline.past:
                raise errors.deadline(f"{lost} before the deadline") from None
            raise errors.unavailable(f"{lost} within {self._replay_wait_s:g} s") from None

    def _less_loaded(self, target: Route, beside: Sequence[Beside]) -> Route | None:
        """An equal replica with clearly less to do, if there is one."""
        model, now = target.model, target.replica.backlog_rows + self._unreported(target.replica.id)
        with contextlib.suppress(errors.RequestError):
            other = self._choose(model.name, model.version, model.fingerprint, {target.replica.id}, beside)
            if other.load < now * CLEARLY_LESS:
                return other
        return None

    def _choose(
        self,
        name: str,
        version: str,
        fingerprint: str | None = None,
        exclude: set[str] | None = None,
        beside: Sequence[Beside] = (),
    ) -> Route:
        return router.choose(
            self._roster.index,
            name,
            version,
            fingerprint=fingerprint,
            exclude=exclude or (),
            beside=beside,
            unreported=self._unreported,
        )

    def _unreported(self, replica_id: str) -> int:
        return self._links.unreported(replica_id, self._roster.covered)


def _settled(target: Route, asked: Asked, data: bytes) -> tuple[bytes, int]:
    """A request with the seed that all its repetitions have, and its network rows; for the target's version, where it
    would take another one."""
    if target.pinned:
        data = kserve.with_version(data, target.model.version)
    draws, solves = target.model.draws, target.model.solves
    if (draws is not None or solves is not None) and not asked.seeded:
        data = kserve.with_seed(data, secrets.randbelow(2**63))
    return data, asked.rows(draws, solves)


def _refused(error: grpc.aio.AioRpcError) -> bool:
    """Whether the replica refused the request before it began."""
    return errors.answered(error) and error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def _late(model: str) -> errors.RequestError:
    """An error of a call whose time is up: its replica, whose call that cancels, counts it."""
    late = f"model {model!r}: no answer before the deadline"
    return errors.RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, late, counted=True)


def _as_answered(error: grpc.aio.AioRpcError, model: str) -> errors.RequestError:
    if errors.answered(error):
        # what was refused for being too much is not counted there: another replica might have taken it
        counted = error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED
        return errors.RequestError(error.code(), error.details() or "", counted=counted)
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return _late(model)
    if error.code() == grpc.StatusCode.UNKNOWN:
        return errors.internal(f"model {model!r} failed inside its replica: {error.details()}")
    return errors.RequestError(error.code(), f"model {model!r}: {error.details()}")
