"""Multi-step consistency sampling (Song et al. 2023, arXiv:2303.01469, algorithm 1), on any path.

    x_t = alpha_t (f(x_s, s) + sqrt(rho_t^2 - rho_min^2) z),   rho = sigma / alpha

For a consistency model: its output, read as a prediction of x_0, is f, the point at t_min of the flow through (x_s, s),
over alpha. The last step adds no noise and returns that point. An exact f makes every step exact in law, at any
spacing, so the error is the model's and has no order in the step: the table's 1 is its smallest value. With an ordinary
denoiser, D is a mean and no sample, and no number of steps mends that.
"""

import math
from collections.abc import Iterator

from steering.plans.plan import Course, Solver, Update


def updates(course: Course) -> Iterator[Update]:
    floor = course.nodes[-1].rho
    for s, t in course.intervals():
        noise = t.alpha * math.sqrt(max(t.rho**2 - floor**2, 0.0))
        yield Update(at=s, to=t, A=((0.0,),), b=(t.alpha,), C=((noise,),) if noise else ())


SOLVER = Solver(
    name="consistency",
    order=1,
    rows_per_step=1,
    reference="Song et al. 2023, arXiv:2303.01469",
    default_grid="karras",
    updates=updates,
    uses_noise=True,
    bounded=True,
    generates=True,
)
