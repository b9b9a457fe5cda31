"""DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, eq. 12), with the noise level that is right on any path.

    x_t = alpha_t D + sqrt(sigma_t^2 - s^2) eps + s z,   s^2 = eta^2 sigma_t^2 (1 - exp(-2 h)),   h = lambda_t-lambda_s

eta = 0 is the exponential Euler method of the probability flow, eta = 1 the ancestral sampler. The paper's own s^2
is this one on variance-preserving paths only.
"""

import math
from collections.abc import Iterator

from steering.errors import PlanError
from steering.plans.plan import Course, Solver, Update


def updates(course: Course) -> Iterator[Update]:
    eta = course.eta
    for s, t in course.intervals():
        variance = eta**2 * -math.expm1(-2 * (t.log_snr - s.log_snr))
        if variance > 1:
            raise PlanError(
                f"eta: expected at most {eta / variance**0.5:.4g} on this grid, got {eta}: more noise than x_t holds"
            )
        eps = t.sigma * math.sqrt(1 - variance) / s.sigma
        yield Update(
            at=s, to=t, A=((eps,),), b=(t.alpha - eps * s.alpha,), C=((t.sigma * math.sqrt(variance),),) if eta else ()
        )


SOLVER = Solver(
    name="ddim",
    order=1,
    rows_per_step=1,
    reference="Song, Meng & Ermon 2021, arXiv:2010.02502",
    default_grid="logsnr",
    updates=updates,
    eta=0.0,
)
