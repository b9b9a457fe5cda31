"""The client as a reward: one stream on which candidates go out and scores come back (tiltserve.v1.Sampling)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from protos.tiltserve.v1 import sampling_pb2
from serving import errors
from serving.answer import Answer
from serving.backends import Array
from serving.outside import Once, OutsideReward, check_scores, most_rows, tensor, values
from serving.repository import Model
from serving.rewards import PREFIX, Given

CLIENT = "client"
"""What the client's own reward is called."""

Read = Callable[[], Awaitable[sampling_pb2.InteractiveRequest]]
Write = Callable[[sampling_pb2.InteractiveReply], Awaitable[None]]


class ClientDefinition:
    """The reward of one stream. Make it on the stream's event loop.

    Args:
        read: the client's next message; raises StopAsyncIteration at the end of its messages.
        write: sends one to the client.
        seconds: how long the client may take to score one batch.
    """

    name = CLIENT

    def __init__(self, read: Read, write: Write, seconds: float) -> None:
        self._read, self._write, self._seconds = read, write, seconds
        self._loop, self._batch = asyncio.get_running_loop(), 0

    def takes(self, given: Mapping[str, Given]) -> Sequence[str]:
        """Implements `Definition.takes`: the client knows what it wants."""
        return []

    def bind(self, given: Mapping[str, Given]) -> OutsideReward:
        """Implements `Definition.bind`."""
        if given:
            raise errors.invalid(f"{PREFIX}{min(given)}: expected no arguments of reward {CLIENT!r}, got one")
        return OutsideReward(CLIENT, (CLIENT, Once()), CLIENT, self._ask, self._loop)

    async def _ask(self, x: Array) -> Array:
        """The client's scores [rows] of candidates [rows, *event], batch after batch."""
        most = most_rows(x.shape[1:])
        return np.concatenate([await self._turn(x[first : first + most]) for first in range(0, len(x), most)])

    async def _turn(self, x: Array) -> Array:
        self._batch += 1
        expected = f"reward {CLIENT!r}: expected {len(x)} scores of batch {self._batch}"
        try:
            async with asyncio.timeout(self._seconds):
                candidates = sampling_pb2.Candidates(batch=self._batch, tensor=tensor(x))
                await self._write(sampling_pb2.InteractiveReply(candidates=candidates))
                message = await self._read()
        except TimeoutError:
            raise errors.deadline(f"{expected} within {self._seconds:g} s, got none") from None
        except StopAsyncIteration:
            raise errors.invalid(f"{expected}, got the end of the client's messages") from None
        if message.WhichOneof("kind") != "scores":
            raise errors.invalid(f"{expected}, got {message.WhichOneof('kind') or 'an empty message'}")
        if message.scores.batch != self._batch:
            raise errors.invalid(f"{expected}, got those of batch {message.scores.batch}")
        if len(message.scores.scores) != len(x):
            raise errors.invalid(f"{expected}, got {len(message.scores.scores)}")
        scores = np.array(message.scores.scores, np.float32)
        check_scores(CLIENT, scores)
        return scores


def infer_request(message: sampling_pb2.InteractiveRequest) -> pb.ModelInferRequest:
    """The first message of a stream as the ModelInfer that it stands for; its reward is the client unless it says.

    Raises:
        RequestError: INVALID_ARGUMENT where it is another message, or a parameter is a tensor.
    """
    if message.WhichOneof("kind") != "sample":
        raise errors.invalid(f"expected sample as the first message, got {message.WhichOneof('kind') or 'none'}")
    sample = message.sample
    parameters = {"reward": pb.InferParameter(string_param=CLIENT)}
    for name, value in sample.parameters.items():
        kind = value.WhichOneof("kind")
        if kind == "tensor":
            raise errors.invalid(f"parameter {name!r}: expected no tensor, which goes into inputs, got one")
        parameters[name] = pb.InferParameter(**({_PARAMETERS[kind]: getattr(value, kind)} if kind else {}))
    inputs = sorted(sample.inputs.items())
    return pb.ModelInferRequest(
        model_name=sample.model,
        model_version=sample.version,
        id=sample.id,
        parameters=parameters,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=name, datatype=each.datatype or "FP32", shape=each.shape)
            for name, each in inputs
        ],
        raw_input_contents=[each.data for _, each in inputs],
    )


_PARAMETERS = {"flag": "bool_param", "integer": "int64_param", "number": "double_param", "text": "string_param"}


def last_reply(model: Model, request_id: str, answer: Answer) -> sampling_pb2.InteractiveReply:
    """The samples and all that comes with them."""
    return sampling_pb2.InteractiveReply(
        samples=sampling_pb2.SampleReply(
            model=model.name,
            version=model.version,
            id=request_id,
            parameters=values(answer.parameters),
            outputs={name: tensor(each) for name, each in answer.outputs.items()},
        )
    )
