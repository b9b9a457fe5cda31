"""The solver table. A solver is one file of matrices; it exists by being listed here."""

from collections.abc import Mapping

from steering.plans.plan import Solver
from steering.solvers import (
    annealed_langevin,
    consistency,
    ddim,
    deis,
    dlg,
    dpm_solver,
    dpm_solver_adaptive,
    dpmpp_2m,
    dpmpp_3m,
    euler,
    euler_ancestral,
    flow,
    heun,
    interpolant_sde,
    ipndm,
    pc,
    plms,
    reversible_heun,
    rk45,
    runge_kutta,
    sde_dpmpp,
    searched,
    trig_adams,
    unipc,
)

_ALL = (
    ddim.SOLVER,
    euler.SOLVER,
    heun.SOLVER,
    dpmpp_2m.SOLVER,
    *dpm_solver.SOLVERS,
    *dpmpp_3m.SOLVERS,
    *sde_dpmpp.SOLVERS,
    *runge_kutta.SOLVERS,
    euler_ancestral.SOLVER,
    consistency.SOLVER,
    *flow.SOLVERS,
    interpolant_sde.SOLVER,
    reversible_heun.SOLVER,
    pc.SOLVER,
    annealed_langevin.SOLVER,
    rk45.SOLVER,
    *dpm_solver_adaptive.SOLVERS,
    dlg.SOLVER,
    *deis.SOLVERS,
    *unipc.SOLVERS,
    *ipndm.SOLVERS,
    plms.SOLVER,
    *trig_adams.SOLVERS,
    searched.SOLVER,
)
SOLVERS: Mapping[str, Solver] = {solver.name: solver for solver in _ALL}
