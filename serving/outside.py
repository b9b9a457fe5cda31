"""What rewards that are computed outside of the server have in common: how candidates go out and scores come back."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protos.tiltserve.v1 import tensor_pb2
from serving import errors, kserve
from serving.backends import Array
from serving.kserve import Parameter
from serving.rewards import Given, Scoring
from serving.task import External

ROWS = 1024
BYTES = 3 * 2**20
"""Most rows, and most bytes, of candidates in one message: gRPC by default takes in messages of up to 4 MiB."""


class Once:
    """In a reward's key: what it scores means nothing to any other request."""


def lasting(key: object) -> bool:
    """Whether scores filed under this key may serve a later request."""
    return all(map(lasting, key)) if isinstance(key, tuple) else not isinstance(key, Once)


@dataclass(frozen=True, eq=False)
class OutsideReward:
    """A reward with its arguments that somebody else computes, on request from this event loop.

    Attributes:
        ask: the scores float32 [rows] of candidates float32 [rows, *event]; may be cancelled at any time.
        loop: where `ask` runs.
    """

    name: str
    key: tuple[object, ...]
    fingerprint: str
    ask: Callable[[Array], Coroutine[Any, Any, Array]]
    loop: asyncio.AbstractEventLoop
    threshold: float | None = None

    def scores(self, x: Tensor) -> Scoring:
        """Implements `Reward.scores`: the engine goes on with other tasks meanwhile."""
        candidates = x.to(torch.float32).contiguous().numpy()

        async def reply() -> list[Array]:
            return [await self.ask(candidates)]

        def start() -> Future[list[Array]]:
            return asyncio.run_coroutine_threadsafe(reply(), self.loop)

        (scores,) = yield External(self.name, len(x), start)
        return torch.from_numpy(scores)


def most_rows(event: Sequence[int]) -> int:
    """How many candidates of this shape one message holds."""
    return max(1, min(ROWS, BYTES // (4 * math.prod(event))))


def check_scores(reward: str, scores: Array) -> None:
    """Raises RequestError, FAILED_PRECONDITION, where a score is NaN or +inf."""
    bad = np.isnan(scores) | (scores == np.inf)
    if bad.any():
        row = int(bad.argmax())
        raise errors.failed_precondition(
            f"reward {reward!r}: expected finite scores or -inf, got {scores[row]} for candidate {row} of {len(scores)}"
        )


def tensor(array: Array) -> tensor_pb2.Tensor:
    """An array as a message; KeyError if its type has no name."""
    data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return tensor_pb2.Tensor(datatype=kserve.datatype(array.dtype), shape=array.shape, data=data)


def value(given: Given) -> tensor_pb2.Value:
    """A parameter or an array as a message."""
    if isinstance(given, bool):
        return tensor_pb2.Value(flag=given)
    if isinstance(given, int):
        return tensor_pb2.Value(integer=given)
    if isinstance(given, float):
        return tensor_pb2.Value(number=given)
    if isinstance(given, str):
        return tensor_pb2.Value(text=given)
    return tensor_pb2.Value(tensor=tensor(given))


def values(given: Mapping[str, Parameter] | Mapping[str, Given]) -> dict[str, tensor_pb2.Value]:
    return {name: value(each) for name, each in given.items()}
