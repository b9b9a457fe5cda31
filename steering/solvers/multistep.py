"""Linear multistep steps as matrices: any weights over past evaluations, one network row a step.

    x_t = L x_s + sum_j w_j F_j,   L = K_t / K_s,   F = D, K = sigma ("data"),   F = eps, K = alpha ("noise"),
    or F = v = (alpha eps - sigma D) / n, K = n = sqrt(alpha^2 + sigma^2) ("velocity")

F_j are the values at s and before, each as its own evaluation gave it. A corrector makes the step again once the
evaluation at its end, due anyway, adds the value there; the next step goes on from the corrected state (UniC, Zhao et
al. 2023, arXiv:2302.04867, alg. 1).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from steering.plans.plan import Node, Update
from steering.plans.program import Integrand

Value = tuple[Integrand, int]
"""Of what, and how many steps ago it was evaluated."""


@dataclass(frozen=True)
class StepWeights:
    """A step's weights, newest value first: of s and before; in the corrector of t, s and before."""

    target: Integrand
    predictor: tuple[float, ...]
    corrector: tuple[float, ...] = ()


def scale(target: Integrand, node: Node) -> float:
    """K: what x is divided by to move by the target's integral alone."""
    if target == "data":
        return node.sigma
    return node.alpha if target == "noise" else math.hypot(node.alpha, node.sigma)


def value(target: Integrand, node: Node) -> tuple[float, float]:
    """The weights of x and D in the target's value at a node."""
    if target == "data":
        return 0.0, 1.0
    if target == "velocity" and node.alpha == 0:
        return 0.0, -scale(target, node) / node.sigma
    norm = 1.0 if target == "noise" else scale(target, node) / node.alpha
    return 1 / (node.sigma * norm), -norm * node.alpha / node.sigma


def updates(nodes: Sequence[Node], steps: Sequence[StepWeights]) -> Iterator[Update]:
    """Registers: the predicted state; where it will be corrected, the corrector's sum so far; then past values."""
    previous: StepWeights | None = None
    before: list[Value] = []
    for (s, t), step, after in zip(pairwise(nodes), steps, _kept(steps), strict=True):
        rows = list(_rows(s, t, previous, step, before, after))
        yield Update(at=s, to=t, A=tuple(row for row, _ in rows), b=tuple(weight for _, weight in rows))
        previous, before = step, after


def _rows(
    s: Node, t: Node, previous: StepWeights | None, step: StepWeights, before: Sequence[Value], after: Sequence[Value]
) -> Iterator[tuple[tuple[float, ...], float]]:
    """The registers after the evaluation at s: weights of those before it, and of the new D."""
    corrected = previous if previous and previous.corrector else None
    state = 1 if corrected else 0  # the register to go on from
    places = {value: state + 1 + k for k, value in enumerate(before)}

    def form(linear: float, values: Iterable[tuple[Value, float]]) -> tuple[tuple[float, ...], float]:
        row, denoised = [0.0] * (state + 1 + len(before)), 0.0
        row[state] = linear
        new = [(corrected.target, linear * corrected.corrector[0])] if corrected else []
        for (target, age), weight in values:
            if age == 0:
                new.append((target, weight))
            else:
                row[places[target, age]] = weight
        for target, weight in new:
            of_state, of_denoised = value(target, s)
            row[0] += weight * of_state
            denoised += weight * of_denoised
        return tuple(row), denoised

    linear = scale(step.target, t) / scale(step.target, s)
    for weights in (step.predictor, step.corrector[1:]):
        if weights:
            yield form(linear, (((step.target, age), weight) for age, weight in enumerate(weights)))
    for target, age in after:
        yield form(0.0, [((target, age - 1), 1.0)])


def _kept(steps: Sequence[StepWeights]) -> list[list[Value]]:
    """The past values to hold after each step, with their ages at the next: what later steps ask for."""
    kept: list[list[Value]] = [[]]
    for step in reversed(steps[1:]):
        own = {(step.target, age) for age in range(1, len(step.predictor))}
        kept.append(sorted(own | {(target, age - 1) for target, age in kept[-1] if age > 1}))
    return kept[::-1]
