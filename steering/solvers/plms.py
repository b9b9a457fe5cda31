"""PLMS: Adams-Bashforth with constant weights on eps, begun by a step of Heun's (Liu et al. 2022, arXiv:2202.09778, eq.
12, as Stable Diffusion's PLMS begins it).

    x_t = (alpha_t / alpha_s) x_s + alpha_t (rho_t - rho_s) sum_j c_j eps_j

The first step is made, eps is asked at its end, and the step is made again with the mean of both; that eps is left out
of the history. So N steps take N + 1 rows, and the second node is asked twice. `ipndm_4` begins without it.
"""

from collections.abc import Iterator

from steering.plans.plan import Course, Node, Solver, Update
from steering.solvers.ipndm import ADAMS_BASHFORTH

Form = tuple[float, float]


def _eps(at: Node) -> Form:
    """Weights of x and D in eps."""
    return 1 / at.sigma, -at.alpha / at.sigma


def _step(s: Node, t: Node) -> Form:
    """Weights of x_s and of eps in x_t."""
    carry = t.alpha / s.alpha
    return carry, t.sigma - carry * s.sigma


def updates(course: Course) -> Iterator[Update]:
    """Registers: the state; after it past values of eps, newest first, and while the first step is made anew, x_s."""
    nodes = course.nodes
    held = 0
    for i, (s, t) in enumerate(course.intervals()):
        x, d = _eps(s)
        carry, slope = _step(s, t)
        if i == 0:
            yield Update(at=s, to=t, A=((carry + slope * x,), (x,), (1.0,)), b=(slope * d, d, 0.0))  # x', eps_0, x_0
            again, by = _eps(t)
            half = slope / 2
            yield Update(at=t, to=t, A=((half * again, half, carry), (0.0, 1.0, 0.0)), b=(half * by, 0.0))
            held = 1
            continue
        weights = ADAMS_BASHFORTH[min(i, 3)]
        newest, *past = weights
        past += [0.0] * (held - len(past))
        state = (carry + slope * newest * x, *(slope * each for each in past[:held]))
        kept = min(held + 1, 3, len(nodes) - 1)
        history = [(x, *(0.0 for _ in range(held)))]
        history += [(0.0, *(float(k == j) for k in range(held))) for j in range(kept - 1)]
        yield Update(at=s, to=t, A=(state, *history), b=(slope * newest * d, d, *(0.0 for _ in range(kept - 1))))
        held = kept


SOLVER = Solver(
    name="plms",
    order=2,
    rows_per_step=1,
    reference="Liu et al. 2022, arXiv:2202.09778",
    default_grid="logsnr",
    updates=updates,
    rows=lambda steps, options: steps + 1,
)
