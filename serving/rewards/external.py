"""What rewards that are computed outside of the server have in common: how candidates go out and scores come back."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serving.backends import Array
from serving.engine.task import External
from serving.rewards import Scoring
from serving.wire import errors

ROWS = 1024
BYTES = 3 * 2**20
"""Most rows, and most bytes, of candidates in one message: gRPC by default takes in messages of up to 4 MiB."""


class Once:
    """In a reward's key: what it scores means nothing to any other request."""


def lasting(key: object) -> bool:
    """Whether scores filed under this key may serve a later request."""
    return all(map(lasting, key)) if isinstance(key, tuple) else not isinstance(key, Once)


@dataclass(frozen=True, eq=False)
class ExternalReward:
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
