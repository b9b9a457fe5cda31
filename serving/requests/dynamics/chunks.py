"""States of trajectories, sent as they become final and never dropped.

A client that reads slowly holds up its own request, which is parked meanwhile, and nobody else's.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from serving.backends import Array
from serving.engine.task import External
from serving.requests.dynamics.answering import Answering
from serving.wire.answer import Answer
from serving.wire.solving import CHUNK
from serving.wire.waiting import AHEAD
from steering.dynamics import Ask

LONGEST = 2**18
"""Bytes of states from which on a response is sent."""
PARTS = 32
"""Of states that fit into less, about so many responses are sent."""
Room = Callable[[], "Future[list[Array]]"]
"""Begins to wait until the reader has taken some of what waits for it."""


@dataclass(frozen=True)
class Chunk:
    """States that are final.

    Attributes:
        y: [m, *state] in the graph's type; trajectory, position: int64 [m], which trajectory each is of and at which of
            its times.
        number: from 1.
    """

    y: Array
    trajectory: Array
    position: Array
    number: int

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.y.nbytes + self.trajectory.nbytes + self.position.nbytes

    def answer(self) -> Answer:
        """The response."""
        return Answer({"y": self.y, "trajectory": self.trajectory, "position": self.position}, {CHUNK: self.number})


@dataclass
class Chunks:
    """Puts states together until there are enough for a response. What is in one is a function of the request alone, so
    that a replica that takes over sends the same ones.

    Args:
        deliver: takes a chunk; where it holds too much, it gives what to wait for.
        states: of the whole answer.
        dtype: that states are sent in.
    """

    deliver: Callable[[Chunk], Room | None]
    states: int
    dtype: "np.dtype[np.generic]"
    _asks: list[Ask] = field(default_factory=list, init=False)
    _held: int = field(default=0, init=False)
    _sent: int = field(default=0, init=False)

    def shown(self, ask: Ask) -> Answering:
        """Takes states, and waits for a reader that is late."""
        self._asks.append(ask)
        self._held += len(ask)
        row = math.prod(ask.y.shape[1:]) * self.dtype.itemsize
        if self._held * PARTS >= self.states or self._held * row >= LONGEST:
            yield from self.flush()
        return {}

    def flush(self) -> Answering:
        """Sends what was put together."""
        if self._asks:
            asks, self._asks, self._held, self._sent = self._asks, [], 0, self._sent + 1
            with np.errstate(over="ignore"):
                y = np.concatenate([each.y.numpy() for each in asks]).astype(self.dtype)
            trajectory = np.concatenate([each.index.numpy() for each in asks])
            position = np.concatenate([each.extra["position"].numpy() for each in asks])
            chunk = Chunk(y, trajectory.astype(np.int64), position.astype(np.int64), self._sent)
            if (room := self.deliver(chunk)) is not None:
                yield External("reader", 0, room)
        return {}


def held(states: int, row_bytes: int) -> int:
    """Bytes of chunks that wait for their reader, at most."""
    return min(AHEAD + LONGEST + row_bytes, states * row_bytes)
