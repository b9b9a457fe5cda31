"""The unit of work: rows to be evaluated by a network or a reward. Samplers yield them and receive the outputs."""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, MutableMapping, Sized
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeVar

import torch
from torch import Tensor

from steering.numerics.tiles import Matrix

Condition = Mapping[str, Tensor]
Result = TypeVar("Result")
Request = TypeVar("Request")
Counted = TypeVar("Counted", bound=Sized)
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Rows:
    """Rows that can be evaluated in any batch, with any neighbours.

    For kind "network": x [B, *event], path times t [B] in float64, condition tensors [B, ...]; the reply is the raw
    output [B, *event]. For kind "reward": x [B, *event] alone; the reply is [B].

    Two kinds need a network or a reward that can be differentiated. "pullback": as "network", and a cotangent
    v [B, *event]; the reply is J^T v [B, *event], J the Jacobian of the raw output in x. "reward_gradient": x alone;
    the reply is [B, 1 + d], the reward and then its gradient in the flattened event.

    "product": x [B, d] and a matrix [d, k]; the reply is [B, k], x times the matrix, see `tiles`.

    "estimate": what samples look like on the way, for whoever watches: x [n, *event] is the denoised estimate of a
    stage, whose number is `stage`, from 1. Nothing is to be evaluated, and the reply is not read. Only problems with
    `show_every` have them.

    "state": likewise, x [n, *event] is the state at the node of the plan whose number is `stage`, from 0. Only problems
    with `show_path` have them.
    """

    kind: Literal["network", "reward", "pullback", "reward_gradient", "product", "estimate", "state"]
    x: Tensor
    t: Tensor
    condition: Condition = field(default_factory=dict)
    cotangent: Tensor | None = None
    matrix: Matrix | None = None
    stage: int = 0

    @classmethod
    def network(cls, x: Tensor, t: float | Tensor, condition: Condition | None = None) -> "Rows":
        """Network rows at one time, or at a time each [B]."""
        if isinstance(t, float):
            return cls("network", x, _times(t, x.shape[0]), condition or {})
        return cls("network", x, torch.as_tensor(t, dtype=torch.float64).expand(x.shape[0]), condition or {})

    @classmethod
    def reward(cls, x: Tensor) -> "Rows":
        return cls("reward", x, torch.empty(0, dtype=torch.float64))

    @classmethod
    def pullback(cls, x: Tensor, t: float | Tensor, cotangent: Tensor, condition: Condition | None = None) -> "Rows":
        """Rows of J^T `cotangent` at one time, or at a time each [B]."""
        times = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        return cls("pullback", x, times, condition or {}, cotangent)

    @classmethod
    def reward_gradient(cls, x: Tensor) -> "Rows":
        return cls("reward_gradient", x, torch.empty(0, dtype=torch.float64))

    @classmethod
    def product(cls, x: Tensor, matrix: Matrix) -> "Rows":
        return cls("product", x, torch.empty(0, dtype=torch.float64), matrix=matrix)

    @classmethod
    def estimate(cls, x: Tensor, stage: int) -> "Rows":
        return cls("estimate", x, torch.empty(0, dtype=torch.float64), stage=stage)

    @classmethod
    def state(cls, x: Tensor, node: int) -> "Rows":
        return cls("state", x, torch.empty(0, dtype=torch.float64), stage=node)

    def beside(self, other: "Rows") -> "Rows | None":
        """These rows and then those of another request of their kind; None where conditions differ in shape."""
        if any(mine.shape[1:] != other.condition[name].shape[1:] for name, mine in self.condition.items()):
            return None
        condition = {name: torch.cat([mine, other.condition[name]]) for name, mine in self.condition.items()}
        cotangent = None
        if self.cotangent is not None and other.cotangent is not None:
            cotangent = torch.cat([self.cotangent, other.cotangent])
        return Rows(self.kind, torch.cat([self.x, other.x]), torch.cat([self.t, other.t]), condition, cotangent)

    def __len__(self) -> int:
        return self.x.shape[0]


@lru_cache(maxsize=4096)
def _times(t: float, n: int) -> Tensor:
    """n times t, which nobody writes to: the plans of many requests have the same times."""
    return torch.tensor(t, dtype=torch.float64).expand(n)


def answered(generator: Generator[Request, Reply, Result], answer: Callable[[Request], Reply]) -> Result:
    """What a generator returns when `answer` replies to all that it asks for."""
    try:
        request = next(generator)
        while True:
            request = generator.send(answer(request))
    except StopIteration as stop:
        return stop.value


def metered(rows: Generator[Rows, Tensor, Result], meter: Counter[str]) -> Generator[Rows, Tensor, Result]:
    """Pass everything through, counting rows by kind."""
    return counted(rows, meter, lambda request: request.kind)


def counted(
    generator: Generator[Counted, Reply, Result], meter: Counter[str], kind: Callable[[Counted], str]
) -> Generator[Counted, Reply, Result]:
    """Pass everything through, counting what is asked for by its kind."""
    try:
        request = next(generator)
        while True:
            meter[kind(request)] += len(request)
            request = generator.send((yield request))
    except StopIteration as stop:
        return stop.value


def remembering(
    rows: Generator[Rows, Tensor, Result], x: Tensor, known: MutableMapping[Matrix, Tensor]
) -> Generator[Rows, Tensor, Result]:
    """Pass everything through; products of the very tensor `x` are kept in `known`, and asked for once.

    `known` holds products of x [B, d] by matrix, [B, k] each. A row of a product has the same bits among any others, so
    those of a larger tensor serve for a part of it, see `part_of`.
    """
    try:
        request = next(rows)
        while True:
            matrix = request.matrix if request.x is x else None
            if matrix is None:
                reply = yield request
            else:
                if matrix not in known:
                    known[matrix] = yield request
                reply = known[matrix]
            request = rows.send(reply)
    except StopIteration as stop:
        return stop.value


def part_of(known: Mapping[Matrix, Tensor], index: Tensor) -> dict[Matrix, Tensor]:
    """The products of some of the rows: `index` is a mask or an index of them."""
    return {matrix: products[index] for matrix, products in known.items()}
