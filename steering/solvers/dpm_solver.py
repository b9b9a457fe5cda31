"""Single-step DPM-Solver-1, -2, -3 (Lu et al. 2022, arXiv:2206.00927, eq. 3.7, algorithms 1 and 2) and DPM-Solver++.

With u and v at fractions r_1 and r_2 of the step's log-SNR, and phi(z) = (e^z - 1) / z - 1:

    order 1    x_t = k_t x_s - c_t (e^{z_t} - 1) f_s
    order 2    x_t = k_t x_s - c_t (e^{z_t} - 1) f_u,                                        r_1 = 1/2
    order 3    x_v = k_v x_s - c_v ((e^{z_v} - 1) f_s + r_2 / r_1 phi(z_v) (f_u - f_s)),     r_1 = 1/3
               x_t = k_t x_s - c_t ((e^{z_t} - 1) f_s + 1 / r_2 phi(z_t) (f_v - f_s)),       r_2 = 2/3

where x_u is a step of order 1. With h the log-SNR gained since s,

    noise prediction (dpm_solver)    f = eps,   k_t = alpha_t / alpha_s,   c_t = sigma_t,   z_t = h
    data prediction (dpmpp)          f = D,     k_t = sigma_t / sigma_s,   c_t = alpha_t,   z_t = -h

(arXiv:2211.01095, proposition 4.1 and algorithm 1, for the second). Paths end at sigma_min > 0, where the log-SNR is
finite, so the last step needs no lower order.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from steering.plans.plan import Course, Node, Solver, Update


@dataclass(frozen=True)
class Integral:
    """The solution at t: carry x_s + first f_s + second h f'_s + ..., with derivatives in log-SNR."""

    carry: float
    first: float
    second: float


@dataclass(frozen=True)
class Prediction:
    """What is held constant: (k, c, z) from s to t, and f as a linear form of (x, D) at a node."""

    scales: Callable[[Node, Node], tuple[float, float, float]]
    form: Callable[[Node], tuple[float, float]]

    def integral(self, s: Node, t: Node) -> Integral:
        k, c, z = self.scales(s, t)
        return Integral(k, -c * math.expm1(z), -c * (math.expm1(z) / z - 1))

    def update(self, at: Node, to: Node, *rows: tuple[float, ...]) -> Update:
        """New registers, each by its weights of f, r_0, r_1, ..."""
        x, d = self.form(at)
        after = tuple((f * x + first, *others) for f, first, *others in rows)
        return Update(at=at, to=to, A=after, b=tuple(f * d for f, *_ in rows))


NOISE = Prediction(
    scales=lambda s, t: (t.alpha / s.alpha, t.sigma, t.log_snr - s.log_snr),
    form=lambda at: (1 / at.sigma, -at.alpha / at.sigma),
)
DATA = Prediction(
    scales=lambda s, t: (t.sigma / s.sigma, t.alpha, s.log_snr - t.log_snr),
    form=lambda at: (0.0, 1.0),
)


def order_1(predicted: Prediction, course: Course) -> Iterator[Update]:
    for s, t in course.intervals():
        to_t = predicted.integral(s, t)
        yield predicted.update(s, t, (to_t.first, to_t.carry))


def order_2(predicted: Prediction, course: Course) -> Iterator[Update]:
    for (s, t), u in zip(course.intervals(), course.inside(1 / 2), strict=True):
        to_u, to_t = predicted.integral(s, u), predicted.integral(s, t)
        yield predicted.update(s, u, (to_u.first, to_u.carry), (0.0, 1.0))  # x_u, x_s
        yield predicted.update(u, t, (to_t.first, 0.0, to_t.carry))


def order_3(predicted: Prediction, course: Course) -> Iterator[Update]:
    r1, r2 = 1 / 3, 2 / 3
    for (s, t), u, v in zip(course.intervals(), course.inside(r1), course.inside(r2), strict=True):
        to_u, to_v, to_t = (predicted.integral(s, node) for node in (u, v, t))
        new_u, new_v = to_v.second * r2 / r1, to_t.second / r2
        kept = (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)
        yield predicted.update(s, u, (to_u.first, to_u.carry), (0.0, 1.0), (1.0, 0.0))  # x_u, x_s, f_s
        yield predicted.update(u, v, (new_u, 0.0, to_v.carry, to_v.first - new_u), *kept)
        yield predicted.update(v, t, (new_v, 0.0, to_t.carry, to_t.first - new_v))


def _solver(name: str, order: int, step: Callable[[Prediction, Course], Iterator[Update]], f: Prediction) -> Solver:
    paper = "arXiv:2206.00927" if f is NOISE else "arXiv:2211.01095"
    return Solver(
        name=name,
        order=order,
        rows_per_step=order,
        reference=f"Lu et al. 2022, {paper}",
        default_grid="logsnr",
        updates=partial(step, f),
    )


SOLVERS = (
    _solver("dpm_solver_1", 1, order_1, NOISE),
    _solver("dpm_solver_2", 2, order_2, NOISE),
    _solver("dpm_solver_3", 3, order_3, NOISE),
    _solver("dpmpp_2s", 2, order_2, DATA),
    _solver("dpmpp_3s", 3, order_3, DATA),
)
