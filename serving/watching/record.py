"""What is known of one request while it is answered: its id, the trace that it is part of, and how long what took.

Fronts and replicas make a record of each call; log lines, the times that a client may ask for and spans are made of it.
`current` finds the one of the request that is being worked on, so functions need no argument for it.
"""

import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import grpc

Metadata = Sequence[tuple[str, str]]

REQUEST_ID = "x-request-id"
"""Metadata of a call and of its answer: how logs call the request."""
TIMING = "tiltserve-timing"
"""Metadata of a call: `1` asks for its times in the answer's trailing metadata and in its parameters, `trailing` only
for the former."""
TIMES = "server-timing"
"""Trailing metadata of an answer, see `times`."""
TRACE = ("traceparent", "tracestate")
"""Metadata of a call: the trace that it is part of, as W3C's Trace Context has it."""
LONGEST_ID, LONGEST_CARRIED = 128, 512
"""Most characters of a request's id, and of what is passed on of a trace."""

TOLD = ("samples", "steps", "solver", "steering", "reward", "particles", "network_rows", "reward_rows")
"""Parameters of a request and its answer that its span has."""
ONE, TRAILING = "1", "trailing"

_READ = frozenset({REQUEST_ID, TIMING, *TRACE})
_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

_current: ContextVar["Record | None"] = ContextVar("record", default=None)


def current() -> "Record | None":
    """The record of the request that is being worked on here; None where that is none."""
    return _current.get()


def escaped(text: str, most: int = LONGEST_ID) -> str:
    """A text from outside as at most so many printable ASCII characters: `\\n` for a line's end."""
    return text[:most].encode("unicode_escape").decode("ascii")[:most].strip()


class Piece(NamedTuple):
    """A part of the work on a request: from when to when, on time.monotonic()'s clock."""

    name: str
    began: float
    ended: float
    attributes: Mapping[str, str | int | float] = {}


class Trace(Protocol):
    """The spans of a request in this process, see `spans`.

    Attributes:
        id: 32 hexadecimal digits.
        sampled: whether they are kept.
        response: trace and span as W3C's `traceresponse` has them.
        here: the request's own span, for links.
    """

    @property
    def id(self) -> str: ...

    @property
    def sampled(self) -> bool: ...

    @property
    def response(self) -> str: ...

    @property
    def here(self) -> Any: ...

    def asking(
        self, what: str, others: "Sequence[Record]", attributes: Mapping[str, str | int | float]
    ) -> AbstractContextManager[Metadata]:
        """As `Record.asking`."""
        ...

    def end(self, record: "Record") -> None:
        """The request has ended."""
        ...


class Record:
    """A call to a front or a replica.

    Attributes:
        method: the RPC's name.
        id: the client's (`x-request-id`, else the message's own), or a random one.
        asked: in which way the caller wants times, "" for not at all; asks: in which way they are asked for.
        carried: the metadata of the trace that it is part of, as it came.
        outgoing: metadata of the call to a replica that is under way.
        began, ended: on time.monotonic()'s clock. began_ns: nanoseconds since 1970.
        peer: where the call came from. identity: who asked, "" where nobody had to say.
        model, version: what was asked for, and which version of it answered.
        rows: network rows that the request takes.
        bytes_in, bytes_out: of the messages.
        code: how it ended.
        tries: how often it was sent to a replica.
        pieces: what was done for it, in parts.
        attributes: what its span says of what was asked for.
        times: of the replica that answered, as `times` has them.
        task: what the engine of a replica runs for it.
        trace: its spans; None where there are none.
    """

    def __init__(self, method: str, metadata: Iterable[tuple[str, str | bytes]] = (), peer: str = "") -> None:
        self.began, self.began_ns = time.monotonic(), time.time_ns()
        given: dict[str, str] = {}
        for key, value in metadata:
            if key in _READ and isinstance(value, str):
                given.setdefault(key, value)
        self.method, self.peer = method, peer
        self.id = escaped(given.get(REQUEST_ID, ""))
        self._named = bool(self.id)
        if not self._named:
            self.id = secrets.token_hex(8)
        asked = given.get(TIMING, "")
        self.asked = self.asks = asked if asked in (ONE, TRAILING) else ""
        self.carried: Metadata = [(key, given[key]) for key in TRACE if 0 < len(given.get(key, "")) <= LONGEST_CARRIED]
        self.outgoing: Metadata = [(REQUEST_ID, self.id), *self.carried]
        self.ended = 0.0
        self.identity = self.model = self.version = ""
        self.rows = self.bytes_in = self.bytes_out = self.tries = 0
        self.code = grpc.StatusCode.UNKNOWN
        self.pieces: list[Piece] = []
        self.attributes: dict[str, str | int | float] = {}
        self.times = ""
        self.task: object = None
        self.trace: Trace | None = None

    @property
    def seconds(self) -> float:
        """How long it took, until now if it is not over."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; "" where it is part of no trace."""
        if self.trace is not None:
            return self.trace.id
        found = _PARENT.match(dict(self.carried).get(TRACE[0], ""))
        return found[1] if found else ""

    def ns(self, at: float) -> int:
        """A time of time.monotonic()'s clock in nanoseconds since 1970."""
        return self.began_ns + round((at - self.began) * 1e9)

    def calls_itself(self, name: str, *, of_many: bool = False) -> None:
        """The message's own id, which counts where metadata gave none.

        Args:
            of_many: the metadata are of a stream of many requests: their ids are its id and, after a slash, their own.
        """
        name = escaped(name)
        if name and not self._named:
            self.id = name
        elif name and of_many:
            self.id = f"{self.id[: LONGEST_ID // 2]}/{name[: LONGEST_ID // 2 - 1]}"
        self._named = self._named or bool(name)
        self.outgoing = [(REQUEST_ID, self.id), *self.carried]

    def tells(self, parameters: Mapping[str, object]) -> None:
        """Of what was asked for, note what its span says."""
        if self.trace is None or not self.trace.sampled:
            return
        for name in TOLD:
            value = parameters.get(name)
            if isinstance(value, str | int | float):
                self.attributes[name] = escaped(value) if isinstance(value, str) else value

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around a part of the work."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.pieces.append(Piece(name, start, time.monotonic()))

    def asking(
        self, what: str, others: "Sequence[Record]" = (), **attributes: str | int
    ) -> AbstractContextManager[Metadata]:
        """Around a call to somebody else for this request: the metadata to send with it.

        Args:
            others: requests that the call is for too.
        """
        if self.trace is not None:
            return self.trace.asking(what, others, attributes)
        return nullcontext([(REQUEST_ID, self.id), *self.carried])

    def trailing(self) -> Metadata:
        """Metadata of the answer, or of the error."""
        told = [(REQUEST_ID, self.id)]
        if self.trace is not None:
            told.append(("traceresponse", self.trace.response))
        if self.asked and self.times:
            told.append((TIMES, self.times))
        return told


@contextmanager
def working_on(record: Record) -> Iterator[Record]:
    """Within, `current` is this record."""
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)


def asking_for(records: Sequence[Record], what: str, **attributes: str | int) -> AbstractContextManager[Metadata]:
    """`Record.asking` of one of them, for the others too: of one that is sampled, if there is any."""
    if not records:
        return nullcontext(())
    first = next((each for each in records if each.trace is not None and each.trace.sampled), records[0])
    return first.asking(what, [each for each in records if each is not first], **attributes)


def phase(name: str) -> AbstractContextManager[None]:
    """`Record.phase` of the current request."""
    record = current()
    return nullcontext() if record is None else record.phase(name)


def outgoing() -> Metadata:
    """Metadata of a call to a replica for the current request."""
    record = current()
    if record is None:
        return ()
    return (*record.outgoing, (TIMING, record.asks)) if record.asks else record.outgoing


def times_come() -> bool:
    """Whether the current request's answer from a replica comes with its times."""
    record = current()
    return record is not None and bool(record.asks)


def end_matters() -> bool:
    """Whether the current request's stream to a replica is to be read to its end: for its times, and since one that is
    left before it would look as if its client had left."""
    record = current()
    return record is not None and (bool(record.asks) or record.trace is not None)


def note_times(metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
    """The times in what came with a replica's answer are those of the current request."""
    record = current()
    for key, value in metadata or ():
        if record is not None and key == TIMES and isinstance(value, str):
            record.times = value
