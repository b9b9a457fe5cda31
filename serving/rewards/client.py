"""The client as a reward: one stream on which candidates go out and scores come back (tiltserve.v1.Sampling)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np

from protos.tiltserve.v1 import sampling_pb2
from serving.backends import Array
from serving.rewards import PREFIX
from serving.rewards.external import ExternalReward, Once, check_scores, most_rows
from serving.wire import errors
from serving.wire.interactive import CLIENT
from serving.wire.tensors import Given, tensor

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
        """Implements `Definition.takes`: none, the client scores as it likes."""
        return []

    def bind(self, given: Mapping[str, Given]) -> ExternalReward:
        """Implements `Definition.bind`."""
        if given:
            raise errors.invalid(f"{PREFIX}{min(given)}: expected no arguments of reward {CLIENT!r}, got one")
        return ExternalReward(CLIENT, (CLIENT, Once()), CLIENT, self._ask, self._loop)

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
