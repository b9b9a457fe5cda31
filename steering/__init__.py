"""tiltserve's mathematics: sampling plans for diffusion and flow models, and steering them toward a reward.

Torch tensors in, torch tensors out; no sockets, clocks, files or global state.

    plan = steering.plan("dpmpp_2m", path=steering.paths.vp_cosine(), steps=20, prediction="x0")
    x = steering.run(plan, network, shape=(64, 2), seed=0)
    y = steering.run(plan, network, shape=(64, 2), seed=0, steer=steering.Doob(reward, beta=1.0))
"""

from collections.abc import Sequence
from functools import lru_cache, partial

from steering import baselines, distillation, dynamics, paths, posteriors
from steering.distillation import distill
from steering.errors import BudgetError, NetworkError, PlanError, SteeringError, UnsuitableError
from steering.flow import interpolants, reversible
from steering.flow.interpolate import interpolate
from steering.flow.invert import decode, encode, round_trip
from steering.flow.likelihood import bits_per_dimension, log_likelihood
from steering.flow.reflow import couple
from steering.methods.doob import BANK_SIZE, Doob, bank_size, draw_bank
from steering.methods.inverse_problems import Project, inpaint, linear
from steering.methods.smc import Smc
from steering.numerics.noise import Noise
from steering.paths import Path
from steering.plans import grids, limits, predictions, units
from steering.plans.compile import compile_plan
from steering.plans.plan import End, Plan, Solver
from steering.plans.program import Program
from steering.posteriors.calibration import Calibration, Uncalibrated, calibrate
from steering.sampling.rows import Rows
from steering.sampling.run import run, solve
from steering.sampling.sampler import Noised, Problem, Report, Start, most_network_rows, rows_at_once, sample
from steering.solvers import SOLVERS as solvers
from steering.targets import rewards

# typed: 20.0 and True are no step counts, though equal to some
_cached = lru_cache(maxsize=48, typed=True)(partial(compile_plan, solvers))


def plan(
    solver: str,
    *,
    path: Path,
    steps: int,
    prediction: str,
    grid: str | Sequence[float] | None = None,
    eta: float | None = None,
    preconditioning: str = "none",
    sigma_data: float = 0.5,
    trained: Path | None = None,
    reverse: bool = False,
    program: Program | None = None,
    limit: limits.Limit | None = None,
    strength: float = 1.0,
    start_t: float | None = None,
    end: End | None = None,
    **options: float,
) -> Plan:
    """Compile a solver into a plan; equal arguments give the same, cached plan.

    Args:
        solver: a name in `steering.solvers`.
        path: see `steering.paths`; its t_max and t_min are the first and last node.
        steps: intervals, 1..1000.
        prediction: what the network returns: "eps", "x0", "v", "velocity" or "score".
        grid: a name in `steering.grids`, some with a number ("karras(5)"), steps + 1 explicit times, or None for the
            solver's own.
        eta: 0 is the probability-flow ODE, 1 the time-reversed SDE; None the solver's own.
        trained: the path the network was trained on, if it is not `path`; see `paths.reschedule`.
        reverse: from data to noise; deterministic solvers only.
        program: what solver "searched" is to do.
        limit: bounds of the denoised estimate, `limits.Clip(-1, 1)` or `limits.DynamicThreshold(0.995)`.
        strength: share of the steps to take, in (0, 1]: the last strength * steps of them, rounded down. The state at
            the first of their nodes is the run's `x_init`, or data that are `Noised` to it.
        start_t: the time of the state to start from: the grid then goes from there to t_min in `steps` steps.
        end: what is left: "t_min", the state there with its noise, or "denoise", D without noise, for which the last
            step is used. None: "t_min", but where sigma(t_min) is 0 the state is D.
        options: the solver's own, see `steering.solvers[solver].options`.

    Raises:
        PlanError: an unknown name or a value out of range; says what was expected.
    """
    if eta is None and solver in solvers:  # said or left out, it is the same plan
        eta = solvers[solver].eta or 0.0
    nodes = grid if grid is None or isinstance(grid, str) else tuple(grid)
    return _cached(
        solver, path=path, steps=steps, prediction=prediction, grid=nodes, eta=None if eta is None else float(eta),
        preconditioning=preconditioning, sigma_data=sigma_data, trained=trained, reverse=reverse, program=program,
        limit=limit, end=end, strength=float(strength), start_t=None if start_t is None else float(start_t), **options,
    )  # fmt: skip


__all__ = [
    "BANK_SIZE", "BudgetError", "Calibration", "Doob", "NetworkError", "Noise", "Noised", "Path", "Plan",
    "PlanError", "Problem", "Program", "Project", "Report", "Rows", "Smc", "Solver", "Start", "SteeringError",
    "Uncalibrated", "UnsuitableError", "bank_size", "baselines", "bits_per_dimension", "calibrate", "couple",
    "decode", "distill", "distillation", "draw_bank", "dynamics", "encode", "grids", "inpaint", "interpolants",
    "interpolate", "limits", "linear", "log_likelihood", "most_network_rows", "paths", "plan", "posteriors",
    "predictions", "reversible", "rewards", "round_trip", "rows_at_once", "run", "sample", "solve", "solvers", "units",
]  # fmt: skip
