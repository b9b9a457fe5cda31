"""Steering an SDE by Doob's transform: its Euler-Maruyama chain, tilted toward a reward that is only called forwards.

The target is p(path) w with w = exp(r / beta), or r >= threshold: p is the law of the chain's paths from one start, r a
reward of their end or of the whole path. With h_k(y) = E[w | y_k = y], a chain that moves by p h_k+1 / h_k has exactly
that law. h is learnt in four steps: multilevel splitting explores (`splitting`), every state is kept with what the
network said of it (`bank`), log h is fitted backwards on these by rewards alone (`log_h`), and steered paths by that h
(`twisted`) add theirs before it is fitted once more. What is left of its errors the weights of the paths undo: sums
over weighted paths are unbiased, whatever h. In one or two dimensions h comes from a grid (`grid`).
"""

from steering.dynamics.doob.chain import Aim, Chain, Over
from steering.dynamics.doob.grid import Grid, OnGrid, on_grid
from steering.dynamics.doob.methods import METHODS, Method, Settings, by_splitting, learnt, plain, steered
from steering.dynamics.doob.nodes import nodes
from steering.dynamics.doob.run import Steered, steer
from steering.dynamics.doob.twisted import Weighted

__all__ = [
    "METHODS", "Aim", "Chain", "Grid", "Method", "OnGrid", "Over", "Settings", "Steered", "Weighted", "by_splitting",
    "learnt", "nodes", "on_grid", "plain", "steer", "steered",
]  # fmt: skip
