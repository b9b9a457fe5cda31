"""Euler's method on dy/drho = eps, y = x / alpha, rho = sigma / alpha (Karras et al. 2022, arXiv:2206.00364, alg. 1).

x_t / alpha_t = x_s / alpha_s + (rho_t - rho_s) eps,   eps = (x_s - alpha_s D) / sigma_s
"""

from collections.abc import Iterator

from steering.plans.plan import Course, Node, Solver, Update
from steering.solvers import churn


def step(s: Node, t: Node) -> Update:
    """One Euler step from s to t."""
    slope = t.alpha * (t.rho - s.rho) / s.sigma
    return Update(at=s, to=t, A=((t.alpha / s.alpha + slope,),), b=(-slope * s.alpha,))


def updates(course: Course) -> Iterator[Update]:
    for leg in churn.legs(course):
        yield leg.land(step(leg.start, leg.end))


SOLVER = Solver(
    name="euler",
    order=1,
    rows_per_step=1,
    reference="Karras et al. 2022, arXiv:2206.00364, algorithm 1",
    default_grid="karras",
    updates=updates,
    options=churn.OPTIONS,
)
