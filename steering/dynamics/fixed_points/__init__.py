"""States that a map leaves alone: equilibrium models z = f(z), whose layers are an iteration.

Each trajectory stops by itself, as soon as the root mean square of (f(z) - z) / (atol + rtol |f(z)|) is at most 1, or
after max_steps iterations, as NOT_CONVERGED. The state returned is the very z whose residual was measured: `residual`
is the root mean square of f(z) - z, from one network row, and belongs to the last of the times.

A residual is not an error. With L the spectral radius of f's Jacobian, z is off by up to residual / (1 - L): near L = 1
by far more than the residual.

One that has not converged is returned, too: its status and residual say so. States at later times are NaN.

Times are a parameter t of f(z, t): the fixed point at each is where the search for the next begins. Without one, there
is one time.
"""

from steering.dynamics.fixed_points import anderson, homotopy, nesterov
from steering.dynamics.problem import Solver

SOLVERS: tuple[Solver, ...] = (anderson.SOLVER, nesterov.SOLVER, homotopy.SOLVER)
