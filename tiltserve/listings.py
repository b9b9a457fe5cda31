"""What a server says of itself: models, replicas, their inputs and outputs, and what it counted."""

from dataclasses import dataclass, field

from tritonclient.grpc import service_pb2 as pb

from protos.tiltserve.v1 import fleet_pb2
from tiltserve.answers import no_sampler


@dataclass(frozen=True)
class Model:
    """A model as the server lists it.

    Attributes:
        kind: sampler, network or pipeline.
        versions: oldest first.
        state: READY, LOADING or UNAVAILABLE, the best of all replicas.
        reason: why it is not ready.
    """

    name: str
    kind: str
    versions: list[str]
    state: str
    reason: str


@dataclass(frozen=True)
class Replica:
    """A process that runs networks.

    Attributes:
        address: where it listens, host:port.
        backlog_rows: network rows that it still has to evaluate.
        fingerprints: by model; equal ones give equal bytes.
    """

    id: str
    address: str
    pid: int
    backlog_rows: int
    draining: bool
    fingerprints: dict[str, str]


@dataclass(frozen=True)
class Fleet:
    """What runs where."""

    models: list[Model]
    replicas: list[Replica]


@dataclass(frozen=True)
class Tensor:
    """An input or output: a KServe datatype (`FP32`) and a shape with its rows, -1 for any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of one row; a number is listed as [1]."""
        return () if self.shape[1:] == (1,) else self.shape[1:]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape may be it."""
        return len(shape) == len(self.shape) and all(a in (-1, b) for a, b in zip(self.shape, shape, strict=True))


@dataclass(frozen=True)
class Metadata:
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]

    @property
    def draws(self) -> bool:
        """Whether it is a sampler."""
        return any(each.name == "samples" for each in self.outputs)

    @property
    def pictures(self) -> bool:
        """Whether it is a pipeline: it draws pictures, of prompts or other pictures."""
        return any(each.name == "images" for each in self.outputs)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a pipeline's pictures, -1 for what a request may say."""
        height, width, _ = next(each for each in self.outputs if each.name == "images").shape[1:]
        return height, width

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample; `InvalidArgument` for a model that draws none."""
        for output in self.outputs:
            if output.name == "samples":
                return output.shape[1:]
        raise no_sampler(self.name, {each.name: each for each in self.outputs})

    def input(self, name: str) -> Tensor | None:
        return next((each for each in self.inputs if each.name == name), None)


@dataclass(frozen=True)
class Spent:
    """How often something was done, and the seconds that it took in all."""

    count: int
    seconds: float

    @property
    def mean(self) -> float:
        """Seconds of one, 0 of none."""
        return self.seconds / self.count if self.count else 0.0


@dataclass(frozen=True)
class Statistics:
    """What a server counted of one version of a model since it began.

    Attributes:
        inferences: rows or requests that were answered, as the server counts them.
        executions: calls that answered them.
        times: success, fail, queue, compute_input, compute_infer, compute_output, ... as the protocol names them.
        batches: times of calls by their rows.
    """

    name: str
    version: str
    inferences: int
    executions: int
    times: dict[str, Spent]
    batches: dict[int, dict[str, Spent]] = field(default_factory=dict)


def fleet_of(reply: fleet_pb2.ListModelsReply) -> Fleet:
    return Fleet(
        [Model(each.name, each.kind, list(each.versions), each.state, each.reason) for each in reply.models],
        [
            Replica(
                each.id,
                each.address,
                each.pid,
                each.backlog_rows,
                each.draining,
                dict(sorted(each.fingerprints.items())),
            )
            for each in reply.replicas
        ],
    )


def metadata_of(reply: pb.ModelMetadataResponse) -> Metadata:
    inputs, outputs = (
        [Tensor(each.name, each.datatype, tuple(each.shape)) for each in those]
        for those in (reply.inputs, reply.outputs)
    )
    return Metadata(reply.name, list(reply.versions), reply.platform, inputs, outputs)


def statistics_of(reply: pb.ModelStatisticsResponse) -> list[Statistics]:
    return [
        Statistics(
            each.name,
            each.version,
            each.inference_count,
            each.execution_count,
            _times(each.inference_stats),
            {batch.batch_size: _times(batch) for batch in each.batch_stats},
        )
        for each in reply.model_stats
    ]


def _times(message: pb.InferStatistics | pb.InferBatchStatistics) -> dict[str, Spent]:
    """Every duration of a message by its name."""
    durations = [each for each in message.DESCRIPTOR.fields if each.message_type is not None]
    values = {each.name: getattr(message, each.name) for each in durations}
    return {name: Spent(value.count, value.ns / 1e9) for name, value in values.items()}
