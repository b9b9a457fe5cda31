"""Ancestral sampling in rho = sigma / alpha, as k-diffusion's euler_ancestral: Euler down past t, then noise up to t.

    y_down = y_s + (rho_down - rho_s) eps,   y_t = y_down + rho_up z,   y = x / alpha
    rho_up^2 = eta^2 rho_t^2 (1 - rho_t^2 / rho_s^2),   rho_down^2 = rho_t^2 - rho_up^2

Since y_s = D + rho_s eps, this is y_t = D + rho_down eps + rho_up z: DDIM's step with the same eta, on any path (Song,
Meng & Ermon 2021, arXiv:2010.02502, eq. 12), and for eta = 1 that of DDPM (Ho et al. 2020, arXiv:2006.11239).
"""

from steering.plans.plan import Solver
from steering.solvers import ddim

SOLVER = Solver(
    name="euler_ancestral",
    order=1,
    rows_per_step=1,
    reference="Ho, Jain & Abbeel 2020, arXiv:2006.11239; k-diffusion",
    default_grid="karras",
    updates=ddim.updates,
    eta=1.0,
    uses_noise=True,
    twin="euler",
)
