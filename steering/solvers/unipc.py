"""UniPC: a predictor of order p and a corrector that raises it by one (Zhao et al. 2023, arXiv:2302.04867, alg. 1, 2).

    x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - e^-h) D_s - alpha_t B(h) sum_m a_m (D_m - D_s) / r_m
    h = lambda_t - lambda_s,   r_m = (lambda_m - lambda_s) / h,   B(h) = -h (bh = 1) or e^-h - 1 (bh = 2)

m runs over past values and, in the corrector, the one at t. The weights a solve a Vandermonde system, with which the
step is the exponential Adams method in D and log-SNR, whatever B. B counts where there is one weight, which the paper
sets to 1/2, its limit for small h: in the predictor with two values (bh = 2 makes it DPM-Solver++(2M)) and in the
corrector with one past value. Every plan starts with the latter, of local order 3, which limits UniPC-3 to order 3
where sampling starts midway; from noise on, where D hardly changes, order p + 1 is seen.
"""

import math
from collections.abc import Iterator
from functools import partial

from steering.errors import PlanError
from steering.plans.plan import Course, Option, Solver, Update
from steering.plans.program import Choice
from steering.solvers import adams, final, multistep
from steering.solvers.multistep import StepWeights


def updates(order: int, course: Course) -> Iterator[Update]:
    bh, nodes = course.options["bh"], course.nodes
    if bh not in (1, 2):
        raise PlanError(f"bh: expected 1, B(h) = -h, or 2, B(h) = e^-h - 1, got {bh:g}")
    orders = final.orders(course, order)
    steps = adams.steps(course, [Choice("data", each, "log_snr", corrector=True) for each in orders])
    for i, (s, t) in enumerate(course.intervals()):
        h = t.log_snr - s.log_snr
        whole = -t.alpha * math.expm1(-h)
        half = (t.alpha * h if bh == 1 else whole) / 2
        predictor, corrector = steps[i].predictor, steps[i].corrector
        if len(predictor) == 2:
            past = half * h / (nodes[i - 1].log_snr - s.log_snr)
            predictor = (whole - past, past)
        if len(corrector) == 2:
            corrector = (half, whole - half)
        steps[i] = StepWeights("data", predictor, corrector)
    return multistep.updates(nodes, steps)


SOLVERS = tuple(
    Solver(
        name=f"unipc_{p}",
        order=p + 1,
        rows_per_step=1,
        reference="Zhao et al. 2023, arXiv:2302.04867",
        default_grid="logsnr",
        updates=partial(updates, p),
        options={"bh": Option("B(h): 1, -h; 2, e^-h - 1", default=2, low=1, high=2), **final.OPTIONS},
    )
    for p in (1, 2, 3)
)
