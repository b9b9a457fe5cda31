"""Euler's method on dy/drho = eps, y = x / alpha, rho = sigma / alpha (Karras et al. 2022, arXiv:2206.00364, alg. 1).

x_t / alpha_t = x_s / alpha_s + (rho_t - rho_s) eps,   eps = (x_s - alpha_s D) / sigma_s
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from steering.plan import Node, Solver, Update


def updates(nodes: Sequence[Node], eta: float) -> Iterator[Update]:
    for s, t in pairwise(nodes):
        slope = t.alpha * (t.rho - s.rho) / s.sigma
        yield Update(at=s, to=t, A=((t.alpha / s.alpha + slope,),), b=(-slope * s.alpha,))


SOLVER = Solver("euler", 1, 1, "Karras et al. 2022, arXiv:2206.00364, algorithm 1", "karras", updates)
