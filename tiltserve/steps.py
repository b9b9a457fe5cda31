"""What an operation asks of whoever runs it. Operations are generators that do nothing themselves: they yield steps and
are sent what came of them, so that `Client` and `AsyncClient` run the same ones."""

import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from protos.tiltserve.v1 import distillation_pb2, fleet_pb2, sampling_pb2
from tiltserve.errors import DeadlineExceeded, Unavailable
from tiltserve.tensors import Array

T = TypeVar("T")
RETRIES = 3
"""How often what failed is tried again, unless it is said."""


@dataclass(frozen=True)
class Rpc:
    """A method: its path, and what makes a message of the bytes that it answers."""

    path: str
    parse: Callable[[bytes], Any]

    @staticmethod
    def serialize(message: Message) -> bytes:
        return message.SerializeToString()


_KSERVE = "/inference.GRPCInferenceService/"
INFER = Rpc(_KSERVE + "ModelInfer", pb.ModelInferResponse.FromString)
STREAM = Rpc(_KSERVE + "ModelStreamInfer", pb.ModelStreamInferResponse.FromString)
LIVE = Rpc(_KSERVE + "ServerLive", pb.ServerLiveResponse.FromString)
READY = Rpc(_KSERVE + "ServerReady", pb.ServerReadyResponse.FromString)
MODEL_READY = Rpc(_KSERVE + "ModelReady", pb.ModelReadyResponse.FromString)
METADATA = Rpc(_KSERVE + "ModelMetadata", pb.ModelMetadataResponse.FromString)
STATISTICS = Rpc(_KSERVE + "ModelStatistics", pb.ModelStatisticsResponse.FromString)
LOAD = Rpc(_KSERVE + "RepositoryModelLoad", pb.RepositoryModelLoadResponse.FromString)
UNLOAD = Rpc(_KSERVE + "RepositoryModelUnload", pb.RepositoryModelUnloadResponse.FromString)
LIST = Rpc("/tiltserve.v1.Fleet/ListModels", fleet_pb2.ListModelsReply.FromString)
INTERACT = Rpc("/tiltserve.v1.Sampling/SampleInteractive", sampling_pb2.InteractiveReply.FromString)
GRADIENT = Rpc("/tiltserve.v1.Distillation/Gradient", distillation_pb2.GradientResponse.FromString)
DISTILLATION = Rpc("/tiltserve.v1.Distillation/Session", distillation_pb2.SessionResponse.FromString)


@dataclass(frozen=True)
class Ask:
    """Make a call of one answer; its answer is sent back, its error thrown in.

    Attributes:
        seconds: until it is to be given up, None for never.
        metadata: beside the client's own.
        trailing: send back (answer, trailing metadata) instead.
    """

    rpc: Rpc
    message: Message
    seconds: float | None
    metadata: Sequence[tuple[str, str]] = ()
    trailing: bool = False


@dataclass(frozen=True)
class Open:
    """Begin a stream with its first message; without `more` that is the only one.

    Attributes:
        metadata: beside the client's own.
    """

    rpc: Rpc
    message: Message
    seconds: float | None
    metadata: Sequence[tuple[str, str]] = ()
    more: bool = False


@dataclass(frozen=True)
class Receive:
    """The stream's next message is sent back, None at its end."""


@dataclass(frozen=True)
class Send:
    """Send one more message on the stream."""

    message: Message


@dataclass(frozen=True)
class Score:
    """What the caller's function makes of candidates [rows, *event] is sent back."""

    candidates: Array


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Emit:
    """Hand something over to the caller, while the operation goes on."""

    value: Any


Step = Ask | Open | Receive | Send | Score | Sleep | Emit
Operation = Generator[Step, Any, T]


@dataclass
class Patience:
    """How long an operation may take, and how often what failed is tried again.

    Attributes:
        timeout: seconds for all of it, None for no end.
        retries: most repetitions after UNAVAILABLE.
    """

    timeout: float | None
    retries: int
    first_s: float = 0.2
    longest_s: float = 5.0
    _begun: float = field(default_factory=time.monotonic)
    _tried: int = 0

    @property
    def spent(self) -> float:
        """Seconds since the operation began."""
        return time.monotonic() - self._begun

    @property
    def left(self) -> float | None:
        """Seconds until it must end; raises `DeadlineExceeded` where there are none."""
        if self.timeout is None:
            return None
        left = self.timeout - self.spent
        if left <= 0:
            raise DeadlineExceeded(f"no answer within {self.timeout:g} s")
        return left

    def pause(self, error: Unavailable) -> float:
        """Seconds to wait before what failed is tried again; raises the error where it is not to be.

        Pauses double, and differ by up to a half, so that clients of a server that was restarted do not come at once.
        """
        if not error.unbegun or self._tried >= self.retries:
            raise error
        pause = min(self.first_s * 2**self._tried, self.longest_s) * random.uniform(0.75, 1.25)
        if self.timeout is not None and self.spent + pause >= self.timeout:
            raise error
        self._tried += 1
        return pause


def asked(patience: Patience, rpc: Rpc, message: Message, *, repeat: bool = True, **how: Any) -> Operation[Any]:
    """The answer of a call, which is made again after UNAVAILABLE unless `repeat` is False."""
    while True:
        try:
            return (yield Ask(rpc, message, patience.left, **how))
        except Unavailable as error:
            if not repeat:
                raise
            pause = patience.pause(error)
        yield Sleep(pause)
