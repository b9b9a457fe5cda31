"""DEIS: exponential Adams-Bashforth in eps (Zhang & Chen 2023, arXiv:2204.13902, eq. 14 and 15), rho = sigma / alpha.

    x_t = (alpha_t / alpha_s) x_s + alpha_t sum_j C_j eps_j,   C_j = int_{rho_s}^{rho_t} l_j d rho

l_j are the Lagrange polynomials through the last k + 1 nodes, in t ("tab k"), in rho ("rhoab k") or in log rho ("logrho
k"). k = 0 is DDIM.

The first step has one node and leaves an error of second order. It lies in noise, where eps hardly changes, so that
order k + 1 is seen down to errors of 1e-7; from a state midway on, it is 2. Where t is bounded, the grid "uniform" (on
vp_linear, "quadratic") has at 10 steps a half to a tenth of the error of "logsnr".
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from steering.plans.plan import Course, Solver, Update
from steering.plans.program import Choice, Variable
from steering.solvers import adams, final


def updates(choice: Choice, course: Course) -> Iterator[Update]:
    return adams.updates(course, [replace(choice, order=order) for order in final.orders(course, choice.order)])


def solver(name: str, k: int, variable: Variable) -> Solver:
    choice = Choice("noise", k + 1, variable)
    return Solver(
        name=name,
        order=k + 1,
        rows_per_step=1,
        reference="Zhang & Chen 2023, arXiv:2204.13902",
        default_grid="logsnr",
        updates=partial(updates, choice),
        options=final.OPTIONS,
    )


SOLVERS = (
    *(solver(f"deis_tab{k}", k, "t") for k in range(4)),
    *(solver(f"deis_rhoab{k}", k, "rho") for k in range(4)),
    *(solver(f"deis_logrho{k}", k, "log_snr") for k in (1, 2)),
)
