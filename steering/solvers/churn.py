"""Churn (Karras et al. 2022, arXiv:2206.00364, alg. 2): before a step, noise lifts the state to a higher level.

    rho_hat = rho (1 + gamma),   gamma = min(churn / N, sqrt 2 - 1) where churn_min <= rho <= churn_max, else 0
    x_hat / alpha_hat = x / alpha + churn_noise sqrt(rho_hat^2 - rho^2) z

The first state, pure noise at its level, is left alone, and no level rises above the path's highest: a network is not
asked for times outside its range.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from steering.plans.plan import Course, Node, Option, Update

OPTIONS: Mapping[str, Option] = {
    "churn": Option("S_churn: noise added and removed again over the whole course; 0 for none", 0.0),
    "churn_min": Option("S_tmin: churn only at noise levels rho = sigma / alpha from here", 0.0),
    "churn_max": Option("S_tmax: churn only at noise levels up to here", math.inf),
    "churn_noise": Option("S_noise: standard deviation of the noise added", 1.0, 0.0, 10.0),
}


@dataclass(frozen=True)
class Leg:
    """A step from `start` to `end`, after which the state is lifted to `next`: r_0 <- lift r_0 + noise z."""

    start: Node
    end: Node
    next: Node
    lift: float
    noise: float

    def land(self, update: Update) -> Update:
        """An update to `end`, with the lift to the next step's start in it."""
        if self.next is self.end:
            return update
        first = tuple(self.lift * a for a in update.A[0])
        noise = ((self.noise,), *((0.0,) for _ in update.A[1:]))
        return replace(
            update, to=self.next, A=(first, *update.A[1:]), b=(self.lift * update.b[0], *update.b[1:]), C=noise
        )


def legs(course: Course) -> Iterator[Leg]:
    """The steps of a course with its churn."""
    churn, low, high, scale = (course.options[name] for name in OPTIONS)
    gamma = min(churn / (len(course.nodes) - 1), math.sqrt(2) - 1)
    top = max(course.nodes, key=lambda node: node.rho)  # not the first node of a plan in reverse
    starts = list(course.nodes)
    lifted = [i for i, node in enumerate(starts[1:-1], 1) if gamma > 0 and low <= node.rho <= high]
    raised = course.at_log_snr([max(starts[i].log_snr - math.log1p(gamma), top.log_snr) for i in lifted])
    for i, node in zip(lifted, raised, strict=True):
        starts[i] = node
    for start, end, after in zip(starts, course.nodes[1:], starts[1:], strict=False):
        added = math.sqrt(max(after.rho**2 - end.rho**2, 0.0))
        yield Leg(start, end, after, after.alpha / end.alpha, scale * after.alpha * added)
