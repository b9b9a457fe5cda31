"""iPNDM: Adams-Bashforth with constant weights on dy/drho = eps, y = x / alpha, rho = sigma / alpha: PNDM (Liu et al.
2022, arXiv:2202.09778, eq. 12) without its Runge-Kutta start, as in Zhang & Chen 2023, arXiv:2204.13902.

    x_t = (alpha_t / alpha_s) x_s + alpha_t (rho_t - rho_s) sum_j c_j eps_j

c are the weights for equal steps; the first steps use the shorter rules. The order is k where the steps are equal in
rho. Where they are equal in another variable u, from three values on each step of h in u leaves h^3 / 12 rho'' eps',
derivatives in u: order 2, though with a small error, on every grid that sampling is done on.
"""

from collections.abc import Iterator
from functools import partial

from steering.plans.plan import Course, Solver, Update
from steering.solvers import multistep
from steering.solvers.multistep import StepWeights

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def updates(k: int, course: Course) -> Iterator[Update]:
    steps = []
    for i, (s, t) in enumerate(course.intervals()):
        scale = t.alpha * (t.rho - s.rho)
        steps.append(StepWeights("noise", tuple(scale * c for c in ADAMS_BASHFORTH[min(i + 1, k) - 1])))
    return multistep.updates(course.nodes, steps)


SOLVERS = tuple(
    Solver(
        name=f"ipndm_{k}",
        order=min(k, 2),
        rows_per_step=1,
        reference="Liu et al. 2022, arXiv:2202.09778",
        default_grid="logsnr",
        updates=partial(updates, k),
    )
    for k in (1, 2, 3, 4)
)
