"""The SDE of stochastic interpolants with noise that vanishes with sigma (Albergo et al. 2023, arXiv:2303.08797).

From noise to data, dx = (u - e S) dt + sqrt(2 e) dw has the path's marginal laws for any e(t) >= 0. Here u = alpha' D +
sigma' eps and S = -eps / sigma; with e = eta^2 sigma sigma' the drift is alpha' D + (1 + eta^2) sigma' eps, finite at
both ends, and linear in x for a constant D, which gives the step

    x_t = alpha_t D + sigma_t q eps + sigma_t sqrt(1 - q^2) z,   q = (sigma_t / sigma_s)^(eta^2)

Where alpha = 1 this is the usual e = eta^2 g^2 / 2; where alpha' < 0 it is less, and stays bounded as alpha goes to 0.
"""

import math
from collections.abc import Iterator

from steering.errors import PlanError
from steering.plans.plan import Course, Solver, Update


def updates(course: Course) -> Iterator[Update]:
    for s, t in course.intervals():
        log = course.eta**2 * math.log(t.sigma / s.sigma)
        if log > 0:
            raise PlanError(
                f"solver 'interpolant_sde': expected a sigma that falls from noise to data, got {s.sigma:.4g} at "
                f"t={s.t:.4g} and {t.sigma:.4g} at t={t.t:.4g}; dpmpp_2m with eta above 0 takes any"
            )
        eps = t.sigma * math.exp(log) / s.sigma
        noise = t.sigma * math.sqrt(-math.expm1(2 * log))
        yield Update(at=s, to=t, A=((eps,),), b=(t.alpha - eps * s.alpha,), C=((noise,),))


SOLVER = Solver(
    name="interpolant_sde",
    order=1,
    rows_per_step=1,
    reference="Albergo et al. 2023, arXiv:2303.08797",
    default_grid="uniform",
    updates=updates,
    eta=1.0,
    uses_noise=True,
    twin="interpolant_ode",
)
