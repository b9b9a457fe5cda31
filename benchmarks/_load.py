"""Load on a gRPC endpoint: closed and open loops over a stream of requests, made by a process of their own.

Times are `time.monotonic()` seconds, which all processes of one machine share.
"""

import asyncio
import hashlib
import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Event

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import np_to_triton_dtype

Parameter = bool | int | float | str
INFER = "/inference.GRPCInferenceService/ModelInfer"
LEFT = "LEFT"
"""Status of a call that its client gave up."""
POLL_S = 0.05
LONGEST_MESSAGE = 256 * 2**20
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel, as clients in other processes would have
    ("grpc.max_receive_message_length", LONGEST_MESSAGE),
    ("grpc.max_send_message_length", LONGEST_MESSAGE),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One call of `method` with the bytes `body`; `kind` and `tag` come back in its record.

    Attributes:
        timeout: the call's deadline in seconds, None for none.
        leaves: seconds after which the client gives up: it cancels the call, or with `closes` drops its connection.
    """

    kind: str
    body: bytes
    tag: int = 0
    timeout: float | None = None
    leaves: float | None = None
    closes: bool = False
    method: str = INFER


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a request.

    Attributes:
        due: when it was to be sent; in a closed loop, when it was sent.
        status: gRPC's name for it, or `LEFT`.
        rows: network rows that the answer reports.
        digest: of the answer's outputs (names, shapes, bytes), "" without an answer.
        detail: what an error said.
    """

    kind: str
    tag: int
    due: float
    sent: float
    ended: float
    status: str
    rows: int = 0
    digest: str = ""
    detail: str = ""

    @property
    def seconds(self) -> float:
        """From when it was due, so that a late client does not hide a slow server."""
        return self.ended - self.due


@dataclass(frozen=True)
class Closed:
    """So many clients, each with a connection of its own, send their next request when the last one is answered."""

    clients: int


@dataclass(frozen=True)
class Open:
    """Poisson arrivals of `rate` requests a second over a few connections, whatever becomes of them."""

    rate: float
    seed: int = 0
    connections: int = 8


class Driver:
    """A process that makes load. Use it as a context."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._stop = spawn.Event()
        self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_remember, initargs=(self._stop,))
        self.pid = self._pool.submit(os.getpid).result()

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def start(
        self, address: str, stream: Sequence[Request], pattern: Closed | Open, seconds: float, *, finish: bool = True
    ) -> "Future[list[Record]]":
        """Begin `load` with these arguments; one at a time."""
        self._stop.clear()
        return self._pool.submit(load, address, stream, pattern, seconds, finish=finish)

    def stop(self) -> None:
        """End the load now, as if its seconds were over."""
        self._stop.set()

    def once(self, address: str, stream: Sequence[Request], clients: int = 1) -> list[Record]:
        """Send each request once and wait for the answers."""
        self._stop.clear()
        return self._pool.submit(each_once, address, stream, clients).result()


_stop: Event | None = None  # of the driver whose process this is


def _remember(stop: Event) -> None:
    global _stop
    _stop = stop


def load(
    address: str, stream: Sequence[Request], pattern: Closed | Open, seconds: float, *, finish: bool = True
) -> list[Record]:
    """Send the stream, over again when it ends, for so many seconds; in the calling process.

    Args:
        finish: whether calls still running at the end are waited for; otherwise they are cancelled and end as `LEFT`.
    """
    return asyncio.run(_load(address, itertools.cycle(stream), pattern, seconds, finish))


def each_once(address: str, stream: Sequence[Request], clients: int = 1) -> list[Record]:
    """The records of each request sent once, in the order in which they ended."""
    return asyncio.run(_load(address, iter(stream), Closed(clients), math.inf, finish=True))


class _End:
    """When no more requests are to be sent."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.at or (_stop is not None and _stop.is_set())


async def _load(
    address: str, requests: Iterator[Request], pattern: Closed | Open, seconds: float, finish: bool
) -> list[Record]:
    records, end = list[Record](), _End(seconds)
    if isinstance(pattern, Closed):
        sending = [_client(address, requests, records, end) for _ in range(pattern.clients)]
    else:
        sending = [_arrivals(address, requests, records, end, pattern)]
    running = {asyncio.create_task(each) for each in sending}
    while running and (finish or not end.over):
        _, running = await asyncio.wait(running, timeout=POLL_S)
    for task in running:
        task.cancel()
    await asyncio.gather(*running)
    return records


async def _client(address: str, requests: Iterator[Request], records: list[Record], end: _End) -> None:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        for request in requests:
            records.append(await _call(address, channel, request, time.monotonic()))
            if end.over:
                return
            if records[-1].status == "UNAVAILABLE":
                await asyncio.sleep(POLL_S)  # a server that is gone is not to be asked as fast as can be


async def _arrivals(address: str, requests: Iterator[Request], records: list[Record], end: _End, pattern: Open) -> None:
    rng = np.random.default_rng(pattern.seed)
    channels = [grpc.aio.insecure_channel(address, options=OPTIONS) for _ in range(pattern.connections)]
    running: set[asyncio.Task[None]] = set()

    async def one(channel: grpc.aio.Channel, request: Request, due: float) -> None:
        records.append(await _call(address, channel, request, due))

    due = time.monotonic()
    try:
        for request, channel in zip(requests, itertools.cycle(channels), strict=False):
            due += rng.exponential(1 / pattern.rate)
            await asyncio.sleep(max(0.0, min(due, end.at) - time.monotonic()))
            if end.over:
                break
            task = asyncio.create_task(one(channel, request, due))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    except asyncio.CancelledError:  # the load is over and nothing is to be waited for
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running)
    for channel in channels:
        await channel.close()


async def _call(address: str, channel: grpc.aio.Channel, request: Request, due: float) -> Record:
    own = grpc.aio.insecure_channel(address, options=OPTIONS) if request.closes else None
    sent = time.monotonic()
    call = (own or channel).unary_unary(request.method)(request.body, timeout=request.timeout)
    leaving = None
    if request.leaves is not None:
        loop = asyncio.get_running_loop()
        leave = (lambda: loop.create_task(own.close())) if own else call.cancel
        leaving = loop.call_later(request.leaves, leave)
    status, rows, digest, detail = "OK", 0, "", ""
    try:
        answer = await call
        if request.method == INFER:
            rows, digest = _read(answer)
    except grpc.aio.AioRpcError as error:
        status, detail = error.code().name, error.details() or ""
        if own and leaving and time.monotonic() >= leaving.when() and status in ("CANCELLED", "UNAVAILABLE"):
            status = LEFT
    except asyncio.CancelledError:
        status = LEFT
    ended = time.monotonic()
    if leaving is not None:
        leaving.cancel()
    if own is not None:
        await own.close()
    return Record(request.kind, request.tag, due, sent, ended, status, rows, digest, detail)


def _read(answer: bytes) -> tuple[int, str]:
    """The network rows and the digest of an answer."""
    response = pb.ModelInferResponse.FromString(answer)
    digest = hashlib.sha256()
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        digest.update(f"{output.name} {output.datatype} {list(output.shape)} ".encode())
        digest.update(raw)
    rows = response.parameters["network_rows"].int64_param if "network_rows" in response.parameters else 0
    return rows, digest.hexdigest()


def infer_body(
    model: str, parameters: Mapping[str, Parameter], inputs: Mapping[str, NDArray[np.generic]] | None = None
) -> bytes:
    """A serialised ModelInferRequest."""
    request = pb.ModelInferRequest(model_name=model)
    for name, value in parameters.items():
        field = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], field, value)
    for name, array in (inputs or {}).items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()


def percentile(seconds: Iterable[float], q: float) -> float:
    """The q-th percentile (0..100), NaN of nothing."""
    values = list(seconds)
    return float(np.percentile(values, q)) if values else float("nan")
