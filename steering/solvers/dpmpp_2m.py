"""DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, alg. 2) and, for eta > 0, its SDE form (eq. 19).

    x_t = (sigma_t / sigma_s) e^{-eta^2 h} x_s + alpha_t (1 - e^{-(1 + eta^2) h}) (D_s + (D_s - D_prev) / 2 r) + noise
    h = lambda_t - lambda_s,   r = (lambda_s - lambda_prev) / h,   noise = sigma_t sqrt(1 - e^{-2 eta^2 h}) z

The integrand of dx = [f x - (1 + eta^2) / 2 g^2 S] dt + eta g dw is linearised in lambda; the first step has no
history and is of first order.
"""

import math
from collections.abc import Iterator

from steering.plan import Course, Node, Solver, Update


def updates(course: Course) -> Iterator[Update]:
    eta = course.eta
    previous: Node | None = None
    for s, t in course.intervals():
        h = t.log_snr - s.log_snr
        carry = t.sigma / s.sigma * math.exp(-(eta**2) * h)
        gain = -t.alpha * math.expm1(-(1 + eta**2) * h)
        extra = 0.0 if previous is None else h / (s.log_snr - previous.log_snr) / 2
        noise = t.sigma * math.sqrt(-math.expm1(-2 * eta**2 * h))
        state = (carry,) if previous is None else (carry, -gain * extra)
        history = tuple(0.0 for _ in state)
        yield Update(at=s, to=t, A=(state, history), b=(gain * (1 + extra), 1.0), C=((noise,), (0.0,)) if eta else ())
        previous = s


SOLVER = Solver("dpmpp_2m", 2, 1, "Lu et al. 2022, arXiv:2211.01095", "logsnr", updates, eta=0.0)
