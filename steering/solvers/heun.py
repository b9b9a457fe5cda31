"""Heun's method on dy/drho = eps, y = x / alpha, rho = sigma / alpha (Karras et al. 2022, arXiv:2206.00364, alg. 1, 2).

    predictor  y' = y_s + (rho_t - rho_s) eps(y_s, s)
    corrector  y_t = y_s + (rho_t - rho_s) (eps(y_s, s) + eps(y', t)) / 2

The last interval is a single Euler step, as in the paper: 2 N - 1 rows for N steps, and still order 2. With `churn`
every step but the first starts from a state lifted to a higher noise level.
"""

from collections.abc import Iterator

from steering.plans.plan import Course, Solver, Update
from steering.solvers import churn, euler


def updates(course: Course) -> Iterator[Update]:
    *legs, last = churn.legs(course)
    for leg in legs:
        s, t = leg.start, leg.end
        carry, slope = t.alpha / s.alpha, t.alpha * (t.rho - s.rho) / s.sigma
        # r_0 = x', r_1 = x_s carried over with half of its slope
        rows = (carry + slope,), (carry + slope / 2,)
        yield Update(at=s, to=t, A=rows, b=(-slope * s.alpha, -slope * s.alpha / 2))
        half = t.alpha * (t.rho - s.rho) / t.sigma / 2
        yield leg.land(Update(at=t, to=t, A=((half, 1.0),), b=(-half * t.alpha,)))
    yield euler.step(last.start, last.end)


SOLVER = Solver(
    name="heun",
    order=2,
    rows_per_step=2,
    reference="Karras et al. 2022, arXiv:2206.00364, algorithm 1",
    default_grid="karras",
    updates=updates,
    options=churn.OPTIONS,
)
