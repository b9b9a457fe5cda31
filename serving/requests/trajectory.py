"""The path of samples, two neighbouring states at a time, sent while they are drawn and never dropped.

A client that reads slowly holds up its own request, which is parked meanwhile, and nobody else's.
"""

import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

import steering
from serving.backends import Array
from serving.engine.task import External, Step
from serving.models.described import STATES
from serving.wire import errors
from serving.wire.answer import Answer
from serving.wire.tensors import Parameter
from serving.wire.waiting import AHEAD
from steering.plans.plan import Node, Plan
from steering.sampling.sampler import Steering

NUMBER = 4
"""Bytes of a float32."""
LONGEST = 3 * 2**20
"""Bytes of a response's states, where a sample has fewer: gRPC's clients by default receive up to 4 MiB."""

Room = Callable[[], "Future[list[Array]]"]
"""Begins to wait until the reader has taken some of what waits for it."""


@dataclass(frozen=True)
class Pair:
    """The states [n, *event] of some samples at a node of their plan and at the next one.

    Attributes:
        first: the number of the first of these samples.
        number: of the pair, from 1, of so many `pairs`.
    """

    states: tuple[Tensor, Tensor]
    nodes: tuple[Node, Node]
    first: int
    number: int
    pairs: int

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(each.numel() * each.element_size() for each in self.states)

    def answer(self) -> Answer:
        """The response: states [n, 2, *event], and where on the path they are."""
        said: dict[str, Parameter] = {"first": self.first, "pair": self.number, "pairs": self.pairs}
        for suffix, node in zip(("", "_next"), self.nodes, strict=True):
            rho = node.rho if node.alpha else math.inf
            said |= {f"t{suffix}": node.t, f"alpha{suffix}": node.alpha, f"rho{suffix}": rho}
        return Answer({STATES: torch.stack(self.states, dim=1).numpy()}, said)


@dataclass
class Path:
    """The path of a group of samples, from number `first` on, as it is drawn.

    Args:
        deliver: takes a pair; where it holds too much, it gives what to wait for.
    """

    deliver: Callable[[Pair], Room | None]
    plan: Plan
    first: int
    _before: tuple[int, Tensor] | None = field(default=None, init=False)

    def passed(self, rows: steering.Rows) -> Generator[Step, list[Array], Tensor]:
        """Takes the state at the next node, sends it with the one before, and waits for a reader that is late."""
        before, self._before = self._before, (rows.stage, rows.x)
        if before is not None:
            number, state = before
            nodes = self.plan.nodes[number], self.plan.nodes[rows.stage]
            pair = Pair((state, rows.x), nodes, self.first, rows.stage, len(self.plan.nodes) - 1)
            if (room := self.deliver(pair)) is not None:
                yield External("reader", 0, room)
        return rows.x


def check(plan: Plan, steer: Steering | None) -> None:
    """Refuse plans and methods whose samples have no path to show."""
    if not plan.stages:
        raise errors.invalid(
            f"trajectory: expected a solver of fixed steps, such as dpmpp_2m, got {plan.solver!r}, which chooses its "
            "own"
        )
    if steer is not None and not steer.shows:
        raise errors.invalid(
            f"trajectory: expected steering that knows its samples on the way, got {steer.name!r}, which picks them at "
            "the end"
        )


def group_size(group: int, event: Sequence[int], longest: int) -> int:
    """How many samples are drawn together, so that their states at two nodes make a response of a usual size.

    Raises:
        RequestError: INVALID_ARGUMENT where they fit into no message.
    """
    each = 2 * NUMBER * math.prod(event)
    size = max(1, min(group, min(LONGEST, longest) // each))
    if size * each > longest:
        raise errors.invalid(f"trajectory: expected two states of at most {longest} bytes, got {size * each}")
    return size


def held(group: int, event: Sequence[int], plan: Plan) -> int:
    """Bytes of pairs that wait for their reader, at most."""
    each = 2 * NUMBER * math.prod(event) * group
    return min(AHEAD + each, each * len(plan.nodes))
