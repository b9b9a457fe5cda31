"""Sends cases, and notes how they end."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import grpc

from benchmarks._fuzz.cases import Case
from benchmarks._load import LEFT
from protos.tiltserve.v1 import sampling_pb2
from serving.wire.streamed import AS_STATUS

ENDED = "ENDED"
"""Status of a stream that ended while its client still wrote: grpc.aio puts an error of its own in the place of the
status that came."""
_WROTE_TOO_LATE = "Internal error from Core"
CHANNELS = 4
"""Connections to each address."""
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 2**22),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass
class Ended:
    """How a case ended.

    Attributes:
        status: gRPC's name for it, `LEFT` or `ENDED`.
        detail: what an error said.
        replies: in order.
    """

    case: Case
    status: str = "OK"
    detail: str = ""
    replies: list[bytes] = field(default_factory=list)
    seconds: float = 0.0


class Clients:
    """Channels to servers by what they are called, and cases sent over them; for one event loop.

    Args:
        addresses: host:port by name.
        credentials: of all channels; None for plain text.
    """

    def __init__(self, addresses: Mapping[str, str], credentials: grpc.ChannelCredentials | None = None) -> None:
        def channel(address: str) -> grpc.aio.Channel:
            if credentials is None:
                return grpc.aio.insecure_channel(address, options=OPTIONS)
            return grpc.aio.secure_channel(address, credentials, options=OPTIONS)

        made = {name: [channel(address) for _ in range(CHANNELS)] for name, address in addresses.items()}
        self._all = [each for some in made.values() for each in some]
        self._next = {name: itertools.cycle(some) for name, some in made.items()}

    async def close(self) -> None:
        for each in self._all:
            await each.close()

    async def run(self, cases: Iterable[Case], in_flight: int) -> AsyncIterator[Ended]:
        """Sends all, so many at a time, and gives them as they end."""
        waiting, running = iter(cases), set[asyncio.Task[Ended]]()
        for case in itertools.islice(waiting, in_flight):
            running.add(asyncio.create_task(self.send(case)))
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                yield each.result()
            for case in itertools.islice(waiting, in_flight - len(running)):
                running.add(asyncio.create_task(self.send(case)))

    async def send(self, case: Case) -> Ended:
        """One case."""
        channel, ended, began = next(self._next[case.to]), Ended(case), time.monotonic()
        metadata = (*case.metadata, *((AS_STATUS,) if case.as_status else ()))
        options = {"timeout": case.timeout, "metadata": metadata, "compression": case.compression}
        calls: list[grpc.aio.Call] = []
        leaving = None
        if case.leaves is not None:
            leaving = asyncio.get_running_loop().call_later(case.leaves, lambda: [each.cancel() for each in calls])
        try:
            if case.unary:
                unary = channel.unary_unary(case.path)(case.messages[0], **options)
                calls.append(unary)
                ended.replies.append(await unary)
            else:
                stream = channel.stream_stream(case.path)(**options)
                calls.append(stream)
                await _converse(stream, case, ended)
                ended.status = (await stream.code()).name
                ended.detail = await stream.details() or ""
        except grpc.aio.AioRpcError as error:
            ended.status, ended.detail = error.code().name, error.details() or ""
        except asyncio.CancelledError:
            ended.status = LEFT
        except asyncio.InvalidStateError:  # a write on a stream that has ended
            ended.status, ended.detail = (await calls[0].code()).name, await calls[0].details() or ""
        finally:
            if leaving is not None:
                leaving.cancel()
        if ended.status == "INTERNAL" and ended.detail == _WROTE_TOO_LATE:
            ended.status = ENDED
        if ended.status == "CANCELLED" and (case.leaves is not None or case.reads is not None):
            ended.status = LEFT
        ended.seconds = time.monotonic() - began
        return ended


async def _converse(stream: "grpc.aio.StreamStreamCall[bytes, bytes]", case: Case, ended: Ended) -> None:
    """Writes and reads at a time, as the case says."""
    writing = asyncio.create_task(_write(stream, case.messages, closes=case.closes))
    scores = _scores(case.scores) if case.method == "SampleInteractive" else None
    try:
        while (reply := await stream.read()) is not grpc.aio.EOF:
            ended.replies.append(reply)
            if case.reads is not None and len(ended.replies) > case.reads:
                stream.cancel()
                return
            if scores is not None and (message := scores(reply, case.messages[-1])) != b"":
                await writing
                await _write(stream, [] if message is None else [message], closes=message is None)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _write(stream: "grpc.aio.StreamStreamCall[bytes, bytes]", messages: Sequence[bytes], *, closes: bool) -> None:
    try:
        for each in messages:
            await stream.write(each)
        if closes:
            await stream.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
        pass  # the stream has ended; what reads from it knows how


def _scores(kind: str) -> "_Scorer":
    return _Scorer(kind)


class _Scorer:
    """Answers candidates with scores of some kind."""

    def __init__(self, kind: str) -> None:
        self._kind, self._turn = kind, 0

    def __call__(self, reply: bytes, first: bytes) -> bytes | None:
        """The message to send: b"" for none, None for the end of messages."""
        came = sampling_pb2.InteractiveReply.FromString(reply)
        if came.WhichOneof("kind") != "candidates":
            return b""
        self._turn += 1
        rows = came.candidates.tensor.shape[0]
        wrong = {
            "none": b"", "end": None, "garbage": b"\xff" * 30, "first again": first, "long": bytes(2**17),
        }  # fmt: skip
        if self._turn > 1 and self._kind in wrong:  # the first one is answered, so that there is more to spoil
            return wrong[self._kind]
        values, batch = [0.5] * rows, came.candidates.batch
        if self._turn > 1:
            values = {"few": values[1:], "many": [*values, 1.0], "nan": [float("nan")] * rows}.get(self._kind, values)
            values = [float("inf")] * rows if self._kind == "infinite" else values
            batch += self._kind == "batch"
        scores = sampling_pb2.Scores(batch=batch, scores=values)
        return sampling_pb2.InteractiveRequest(scores=scores).SerializeToString()


def limited(cases: Iterator[Case], messages: int, until: float) -> Iterator[Case]:
    """Cases until so many messages are sent, or that time (`time.monotonic`) has come."""
    sent = 0
    while sent < messages and time.monotonic() < until:
        case = next(cases)
        sent += max(1, len(case.messages))
        yield case
