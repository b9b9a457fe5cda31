"""DPM-Solver++(3M): multistep, of third order, for the integral of Lu et al. 2022, arXiv:2211.01095, proposition 4.1.

With h = lambda_t - lambda_s and D_1, D_2 the evaluations one and two nodes before s, the parabola through them has

    r_0 = (lambda_s - lambda_1) / h,   r_1 = (lambda_1 - lambda_2) / h,   a = (D_s - D_1) / r_0,   b = (D_1 - D_2) / r_1
    c = (a - b) / (r_0 + r_1),   h D' = a + r_0 c,   h^2 D'' = k c,   k = 2
    x_t = (sigma_t / sigma_s) x_s + alpha_t (phi_1 D_s + phi_2 h D' + phi_3 h^2 D'')
    phi_1 = 1 - e^{-h},   phi_2 = 1 - phi_1 / h,   phi_3 = 1/2 - phi_2 / h

The authors' code, and libraries after it, take k = 1, half of the second derivative. That leaves a local error of
alpha_t phi_3 c = O(h^3), so second order: `dpmpp_3m_compat`, for those who want the same samples.

The first step has no history and the second is 2M's. Sampling starts in noise, where D hardly changes, so that these
steps of lower order cost nothing that can be seen. Paths end at sigma_min > 0, where the log-SNR is finite: the last
step needs no lower order.
"""

import math
from collections.abc import Iterator
from functools import partial

from steering.plans.plan import Course, Solver, Update
from steering.solvers import final, multistep


def weights(lambdas: tuple[float, ...], k: float) -> tuple[float, ...]:
    """Weights of D_s, D_1, D_2 in x_t / alpha_t for log-SNRs at t, s, 1, 2; fewer where the past is shorter."""
    h = lambdas[0] - lambdas[1]
    phi_1 = -math.expm1(-h)
    phi_2 = 1 - phi_1 / h
    phi_3 = 0.5 - phi_2 / h
    if len(lambdas) == 2:
        return (phi_1,)
    r_0 = (lambdas[1] - lambdas[2]) / h
    if len(lambdas) == 3:
        return phi_1 * (1 + 1 / (2 * r_0)), -phi_1 / (2 * r_0)
    r_1 = (lambdas[2] - lambdas[3]) / h
    c = (phi_2 * r_0 + k * phi_3) / (r_0 + r_1)
    a, b = phi_2 + c, -c
    return phi_1 + a / r_0, b / r_1 - a / r_0, -b / r_1


def updates(k: float, course: Course) -> Iterator[Update]:
    lambdas = [node.log_snr for node in course.nodes]
    orders = final.orders(course, 3)
    past = [tuple(reversed(lambdas[max(0, i - order) : i + 1])) for i, order in enumerate(orders, 1)]
    steps = [
        multistep.StepWeights("data", tuple(t.alpha * weight for weight in weights(values, k)))
        for t, values in zip(course.nodes[1:], past, strict=True)
    ]
    return multistep.updates(course.nodes, steps)


PAPER = "Lu et al. 2022, arXiv:2211.01095"
SOLVERS = (
    Solver(
        name="dpmpp_3m",
        order=3,
        rows_per_step=1,
        reference=PAPER,
        default_grid="logsnr",
        updates=partial(updates, 2.0),
        options=final.OPTIONS,
    ),
    Solver(
        name="dpmpp_3m_compat",
        order=2,
        rows_per_step=1,
        reference=PAPER,
        default_grid="logsnr",
        updates=partial(updates, 1.0),
        options=final.OPTIONS,
    ),
)
