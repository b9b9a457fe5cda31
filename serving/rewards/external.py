"""Rewards computed outside of the server: how candidates go out and scores come back."""

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
from serving.rewards.reward import Scored
from serving.wire import errors

ROWS = 1024
BYTES = 3 * 2**20
"""Most rows and bytes of candidates in one message: gRPC by default accepts messages of up to 4 MiB."""

OUTSIDE = frozenset({"remote", "client"})
"""Fingerprints of rewards that are scored outside of the server."""


class Once:
    """Part of a reward's key: its scores are of no use to other requests."""


def lasting(key: object) -> bool:
    """Whether scores filed under this key may serve a later request."""
    return all(map(lasting, key)) if isinstance(key, tuple) else not isinstance(key, Once)


@dataclass(frozen=True, eq=False)
class ExternalReward(Scored):
    """A reward with its arguments, computed outside of the server and asked from this event loop.

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
    cautions: tuple[str, ...] = ()

    def scores(self, x: Tensor) -> Scoring:
        """Implements `Reward.scores`; the engine runs other tasks meanwhile."""
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
