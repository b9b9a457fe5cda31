"""What a table makes of Gaussian data, from its numbers alone: no network, no samples.

The exact denoiser of N(m, v) is linear, D = m + k (x - alpha m) with k = alpha v / (alpha^2 v + sigma^2). So every
stage r <- A r + b D + C z is linear too, and the law of the registers is a recursion of a mean and a covariance matrix.
The mean enters linearly: here data have mean 0, and the spread is what is asked for.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

Matrix = Sequence[Sequence[float]]


class Level(Protocol):
    """A time of a plan."""

    @property
    def alpha(self) -> float: ...
    @property
    def sigma(self) -> float: ...


class Linear(Protocol):
    """r <- A r + b D + C z after an evaluation at `at`."""

    @property
    def at(self) -> Level: ...
    @property
    def A(self) -> Matrix: ...  # noqa: N802
    @property
    def b(self) -> Sequence[float]: ...
    @property
    def C(self) -> Matrix: ...  # noqa: N802


def deviation(updates: Iterable[Linear], start: float, variance: float = 1.0) -> float:
    """Standard deviation of what the updates make of a first state of standard deviation `start`, for data N(0, v).

    Infinite where it has no number.
    """
    covariance = [[start * start]]
    for update in updates:
        alpha, sigma = update.at.alpha, update.at.sigma
        total = alpha * alpha * variance + sigma * sigma
        k = alpha * variance / total if total else 0.0
        rows = [[row[0] + k * b, *row[1:]] for row, b in zip(update.A, update.b, strict=True)]
        half = [[_dot(row, column) for column in covariance] for row in rows]  # symmetric: rows are columns
        noise = update.C or [()] * len(rows)
        covariance = [
            [_dot(other, left) + _dot(drawn, others) for other, others in zip(rows, noise, strict=True)]
            for left, drawn in zip(half, noise, strict=True)
        ]
        if not math.isfinite(covariance[0][0]):
            return math.inf
    return math.sqrt(max(covariance[0][0], 0.0))


def ratio(updates: Iterable[Linear], nodes: Sequence[Level], variance: float = 1.0) -> float:
    """The standard deviation that updates from the first node to the last give to data N(m, variance), over the right
    one."""
    first, last = (math.hypot(node.alpha * variance**0.5, node.sigma) for node in (nodes[0], nodes[-1]))
    return deviation(updates, first, variance) / last


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=False))
