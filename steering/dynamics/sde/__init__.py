"""Stochastic differential equations dy = f(y, t) dt + g(y, t) dW, one file a scheme.

Noise, by what g is: "additive" does not depend on y; "diagonal" has its own Brownian motion for each number of the
state, and g_i depends on y_i alone; "scalar" has one Brownian motion for all; "general" has a matrix g.

Calculus: "ito" or "stratonovich". With additive noise the two are one.

Form: "plain", or one of three whose schemes keep what the equation keeps, see `steering.dynamics.sde.forms`.

Steps are of length dt from the first time on, whatever times are asked for: what lies between two nodes is a step of
its own from the earlier one, along the same Brownian path. Where time falls, the equation is meant in the direction of
travel, along the path that a forward solve of the same seed follows; for Stratonovich equations that is the way back.
"""

from steering.dynamics.problem import Solver
from steering.dynamics.sde import euler_maruyama, milstein, reversible_heun, stochastic_heun

SOLVERS: tuple[Solver, ...] = (
    euler_maruyama.SOLVER,
    milstein.SOLVER,
    stochastic_heun.SOLVER,
    reversible_heun.SOLVER,
)
