"""DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, alg. 2) and, for eta > 0, its SDE form (eq. 19).

    x_t = (sigma_t / sigma_s) e^{-eta^2 h} x_s + alpha_t (1 - e^{-(1 + eta^2) h}) (D_s + (D_s - D_prev) / 2 r) + noise
    h = lambda_t - lambda_s,   r = (lambda_s - lambda_prev) / h,   noise = sigma_t sqrt(1 - e^{-2 eta^2 h}) z

The integrand of dx = [f x - (1 + eta^2) / 2 g^2 S] dt + eta g dw is linearised in lambda; the first step has no
history and is of first order. With the option `exact`, the line through D_s and D_prev is integrated exactly,

    (1 - (1 - e^{-z}) / z) (D_s - D_prev) / r,   z = (1 + eta^2) h

in place of the half step (1 - e^{-z}) / 2 (D_s - D_prev) / r: what the authors' code calls "heun" and "midpoint".
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from steering.plans.plan import Course, Node, Option, Solver, Update
from steering.solvers import final


@dataclass(frozen=True)
class Transition:
    """From s to t where D is constant: x_t = carry x_s + gain D + noise z."""

    carry: float
    gain: float
    noise: float


def transition(eta: float, s: Node, t: Node) -> Transition:
    h = t.log_snr - s.log_snr
    return Transition(
        carry=t.sigma / s.sigma * math.exp(-(eta**2) * h),
        gain=-t.alpha * math.expm1(-(1 + eta**2) * h),
        noise=t.sigma * math.sqrt(-math.expm1(-2 * eta**2 * h)),
    )


def updates(course: Course) -> Iterator[Update]:
    previous: Node | None = None
    for (s, t), order in zip(course.intervals(), final.orders(course, 2), strict=True):
        step = transition(course.eta, s, t)
        h, extra = t.log_snr - s.log_snr, 0.0
        if previous is not None and order > 1:
            extra = h / (s.log_snr - previous.log_snr) / 2
            if course.options["exact"]:
                z = (1 + course.eta**2) * h
                extra *= 2 * (1 / -math.expm1(-z) - 1 / z)
        state = (step.carry,) if previous is None else (step.carry, -step.gain * extra)
        history = tuple(0.0 for _ in state)
        noise = ((step.noise,), (0.0,)) if course.eta else ()
        yield Update(at=s, to=t, A=(state, history), b=(step.gain * (1 + extra), 1.0), C=noise)
        previous = s


OPTIONS = {
    **final.OPTIONS,
    "exact": Option("1: the line through the last two D is integrated exactly", 0.0, 0.0, 1.0, whole=True),
}
SOLVER = Solver(
    name="dpmpp_2m",
    order=2,
    rows_per_step=1,
    reference="Lu et al. 2022, arXiv:2211.01095",
    default_grid="logsnr",
    updates=updates,
    eta=0.0,
    options=OPTIONS,
)
