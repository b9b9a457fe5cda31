"""SDE-DPM-Solver++ of order 1 and SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095): always with noise.

    x_t = (sigma_t / sigma_s) e^{-eta^2 h} x_s + alpha_t (1 - e^{-(1 + eta^2) h}) D + sigma_t sqrt(1 - e^{-2 eta^2 h}) z

with D = D_s (order 1), or D_s + (D_s - D_prev) / 2 r as in `dpmpp_2m` (order 2, weakly). eta = 1 is the paper's method,
the time-reversed SDE. There order 1 is DDIM with eta = 1, the ancestral sampler; other eta solve the SDE with that
noise, where DDIM's variance differs. The paper's SDE-DPM-Solver, in eps, is left out: it does not sample even a point
mass exactly (variance sigma_t^2 (1 + 2 (e^h - 1)^2) after a step from the exact law).
"""

from collections.abc import Iterator

from steering.plans.plan import Course, Solver, Update
from steering.solvers import dpmpp_2m


def order_1(course: Course) -> Iterator[Update]:
    for s, t in course.intervals():
        step = dpmpp_2m.transition(course.eta, s, t)
        yield Update(at=s, to=t, A=((step.carry,),), b=(step.gain,), C=((step.noise,),))


PAPER = "Lu et al. 2022, arXiv:2211.01095"
SOLVERS = (
    Solver(
        name="sde_dpmpp_1",
        order=1,
        rows_per_step=1,
        reference=PAPER,
        default_grid="logsnr",
        updates=order_1,
        eta=1.0,
        uses_noise=True,
        twin="ddim",
    ),
    Solver(
        name="sde_dpmpp_2m",
        order=2,
        rows_per_step=1,
        reference=PAPER,
        default_grid="logsnr",
        updates=dpmpp_2m.updates,
        eta=1.0,
        uses_noise=True,
        twin="dpmpp_2m",
        options=dpmpp_2m.OPTIONS,
    ),
)
