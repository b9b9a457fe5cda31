"""What is sent: calls with their messages and how their client behaves, in an order that only the seed decides."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import grpc

from benchmarks._fuzz import absurd
from benchmarks._fuzz.methods import Method, methods
from benchmarks._fuzz.mutation import mutated
from protos.tiltserve.v1 import sampling_pb2

FRONT, REPLICA = "front", "replica"
PATIENCE_S = 60.0
"""Seconds after which a call that is still unanswered hangs."""
LARGE = 257 * 2**20
"""Bytes of a message that is longer than any may be."""
MOST_BYTES_OF_METADATA = 16 * 1024
"""Beyond which gRPC itself refuses a call."""
INFERENCE = ("ModelInfer", "ModelStreamInfer", "SampleInteractive", "Gradient", "Session")
Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Case:
    """A call.

    Attributes:
        kind: the class of what is wrong with it; "right" for nothing.
        to: whether the front or a replica is called.
        messages: in order; one and no more goes as a unary call, if the method is one.
        leaves: seconds after which the client cancels, None for never.
        reads: responses after which it does, None for all.
        closes: whether it says that there are no more messages.
        scores: how it scores candidates, which only SampleInteractive sends.
    """

    kind: str
    method: str
    path: str
    messages: tuple[bytes, ...]
    to: str = FRONT
    timeout: float = PATIENCE_S
    metadata: Metadata = ()
    compression: grpc.Compression | None = None
    leaves: float | None = None
    reads: int | None = None
    closes: bool = True
    scores: str = "right"
    unary: bool = True
    as_status: bool = False

    @property
    def hurried(self) -> bool:
        return self.timeout < PATIENCE_S


class Cases:
    """Cases of one seed.

    Args:
        spare: the model that may be loaded and unloaded.
        count: about how many messages will be sent, which decides how many are drawn by hypothesis.
    """

    def __init__(self, seed: int, spare: str, count: int, large: bool) -> None:
        self._rng = random.Random(seed)
        self.methods: Mapping[str, Method] = methods(spare)
        self._all = list(self.methods.values())
        self._common = [self.methods[name] for name in INFERENCE]
        self._absurd = absurd.examples(max(50, min(3000, count // 20)), seed)
        self._next, self._large = 0, large

    def __iter__(self) -> Iterator[Case]:
        while True:
            yield self._case()

    def _case(self) -> Case:
        rng = self._rng
        drawn = rng.random()
        if drawn < 0.50:
            return self._bytes(rng.choice(self._all if rng.random() < 0.75 else self._common))
        if drawn < 0.80:
            return self._drawn()
        if drawn < 0.88:
            return self._stream()
        if drawn < 0.94:
            return self._interaction()
        if drawn < 0.96:
            return self._method()
        if drawn < 0.985:
            return self._metadata()
        if drawn < 0.998:
            return self._right()
        return self._oversized()

    def _to(self) -> str:
        return FRONT if self._rng.random() < 0.75 else REPLICA

    def _damaged(self, method: Method, body: bytes) -> bytes:
        return mutated(self._rng, body, method.bodies)

    def _case_of(self, kind: str, method: Method, *messages: bytes, **more: object) -> Case:
        unary = not method.takes_stream and not method.gives_stream and len(messages) == 1
        if method.name == "Watch":
            more = {"reads": 1, "leaves": 2.0, **more}  # it lasts until its client leaves
        case = Case(kind, method.name, method.path, messages, self._to(), unary=unary)
        return Case(**{**case.__dict__, **more})

    def _bytes(self, method: Method) -> Case:
        """One damaged message."""
        rng = self._rng
        more: dict[str, object] = {}
        if rng.random() < 0.05:
            more["timeout"] = rng.choice((0.0, 0.001, 0.02, 0.2))
        if rng.random() < 0.05:
            more["compression"] = rng.choice((grpc.Compression.Gzip, grpc.Compression.Deflate))
        if rng.random() < 0.05:
            more["leaves"] = rng.choice((0.0, 0.001, 0.01, 0.1))
        return self._case_of("bytes", method, self._damaged(method, rng.choice(method.bodies)), **more)

    def _drawn(self) -> Case:
        """A message of hypothesis; from the second time on damaged as well."""
        name, body = self._absurd[self._next % len(self._absurd)]
        method = self.methods[name]
        if self._next >= len(self._absurd):
            body = mutated(self._rng, body, () if "Repository" in name else (body,))
        self._next += 1
        if method.takes_stream and self._rng.random() < 0.5:  # as a message among others
            return self._case_of("absurd", method, *self._mixed(method, body))
        return self._case_of("absurd", method, body)

    def _mixed(self, method: Method, *bodies: bytes) -> Sequence[bytes]:
        rng = self._rng
        more = [rng.choice(method.bodies) for _ in range(rng.randint(0, 2))]
        mixed = [*bodies, *more]
        rng.shuffle(mixed)
        return mixed

    def _stream(self) -> Case:
        """Many messages on one ModelStreamInfer or Session, of which clients leave in every way."""
        rng = self._rng
        method = self.methods["Session" if rng.random() < 0.3 else "ModelStreamInfer"]
        count = rng.choice((0, 1, 2, 3, 5, 8, 8, 13)) if rng.random() < 0.995 else 1000
        # networks alone, or small gradients, of which many are soon answered
        light = method.bodies[4:7] if method.name == "ModelStreamInfer" else method.bodies[:2]
        bodies = [rng.choice(light if count == 1000 else method.bodies) for _ in range(count)]
        if method.name == "Session":
            del bodies[300:]  # gradients take longer than rows of a network
        messages = [self._damaged(method, each) if rng.random() < 0.4 else each for each in bodies]
        leaving = rng.random()
        more: dict[str, object] = {"as_status": rng.random() < 0.2}
        if leaving < 0.2:
            more |= {"leaves": rng.choice((0.0, 0.005, 0.05, 0.3)), "closes": rng.random() < 0.5}
        elif leaving < 0.3:
            more["reads"] = rng.randint(0, 2)
        elif leaving < 0.4:
            more["timeout"] = rng.choice((0.005, 0.05, 0.5))
        elif leaving < 0.45:  # opened, and silent
            more |= {"leaves": 0.5, "closes": False}
        return self._case_of("stream", method, *messages, **more)

    def _interaction(self) -> Case:
        """SampleInteractive with scores that are right, wrong, late, or no scores."""
        rng, method = self._rng, self.methods["SampleInteractive"]
        first = rng.choice(method.bodies)
        if rng.random() < 0.2:
            first = self._damaged(method, first)
        scores = rng.choice(
            ("right", "few", "many", "nan", "infinite", "batch", "garbage", "first again", "long", "none", "end")
        )
        before: tuple[bytes, ...] = ()
        if rng.random() < 0.1:  # scores that nobody asked for, first
            before = (
                sampling_pb2.InteractiveRequest(scores=sampling_pb2.Scores(batch=1, scores=[1.0])).SerializeToString(),
            )
        more: dict[str, object] = {"scores": scores, "closes": False}
        if scores == "none" or rng.random() < 0.1:
            more["leaves"] = rng.choice((0.0, 0.02, 0.2, 0.5))
        return self._case_of("interactive", method, *before, first, **more)

    def _method(self) -> Case:
        """Methods that there are not, and unary calls with no message or several."""
        rng = self._rng
        method = rng.choice(self._all)
        if rng.random() < 0.5:
            count = rng.choice((0, 2, 3))
            return self._case_of(
                "messages",
                method,
                *(rng.choice(method.bodies) for _ in range(count)),
                unary=False,
                timeout=PATIENCE_S if count else 1.0,
            )
        paths = (
            f"{method.path}x",
            method.path[:-1],
            method.path.upper(),
            "/",
            "/x",
            "//",
            f"/{method.name}",
            "/a/b/c",
            "/%00/x",
        )
        return self._case_of("method", method, b"", path=rng.choice(paths), leaves=None, reads=None)

    def _metadata(self) -> Case:
        """Metadata that is long, binary, or ours."""
        rng = self._rng
        method = rng.choice(self._all)
        long = "x" * rng.choice((1, 100, 7000))
        choices: Sequence[Metadata] = (
            (("authorization", f"Bearer {long}"),),
            (("authorization", long),),
            (("x-bin", rng.randbytes(rng.choice((0, 10, 5000)))),),
            tuple((f"k{k}", "v") for k in range(100)),
            (("triton_grpc_error", long),),
            (("tiltserve-caller-bin", rng.randbytes(20)), ("tiltserve-internal", "guess")),
            (("traceparent", "00-" + "f" * 32 + "-" + "0" * 16 + "-01"), ("tracestate", long)),
            (("grpc-previous-rpc-attempts", "9" * 20),),
            (("x", "y" * 2 * MOST_BYTES_OF_METADATA),),
            (("x", "y" * 2**20),),
        )
        return self._case_of("metadata", method, rng.choice(method.bodies), metadata=rng.choice(choices))

    def _right(self) -> Case:
        """A message that is right, and must be answered."""
        rng = self._rng
        method = rng.choice(self._common[:2])
        return self._case_of("right", method, rng.choice(method.bodies))

    def _oversized(self) -> Case:
        """A megabyte or so where a name is expected, or, rarely, more than any message may have."""
        rng = self._rng
        method = rng.choice(self._all)
        if not self._large or rng.random() < 0.9:
            size = rng.choice((2**16, 2**20, 4 * 2**20))
            body = rng.choice(method.bodies) + rng.choice((b"\x0a", b"\x22", b"\x3a")) + b"\x80\x80\x40" + bytes(size)
            return self._case_of("oversized", method, body)
        if rng.random() < 0.5:
            return self._case_of("oversized", method, bytes(LARGE))
        size = LARGE - 2**21
        bomb = rng.choice((bytes(size), b"\x22\0" * (size // 2), b"\x3a\x80\x80\x80\x78" + bytes(size)))
        return self._case_of("oversized", method, bomb, compression=grpc.Compression.Gzip)
