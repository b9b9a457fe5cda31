"""Compilation: a solver and a path become the matrices of a plan, in float64, checked before anything is sampled."""

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import torch

from steering.errors import PlanError, choose
from steering.paths import Path
from steering.plans import middle, predictions
from steering.plans.default_grid import default_grid
from steering.plans.ends import around, finite, nodes_of, through
from steering.plans.limits import Limit
from steering.plans.plan import Course, End, Plan, Solver, Stage, Update
from steering.plans.program import Program

MAX_STEPS = 1000
MAX_ETA = 100.0
MAX_ROWS = 24 * MAX_STEPS
"""Most network rows of a table, per sample: bounds what a plan takes to compile and to keep."""
SILENT = ("eps", "score")
"""Predictions that say nothing of the data where alpha is 0."""


def compile_plan(
    solvers: Mapping[str, Solver],
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
    limit: Limit | None = None,
    end: End | None = None,
    strength: float = 1.0,
    start_t: float | None = None,
    **options: float,
) -> Plan:
    """Compile; raises `PlanError` with what was expected and what came."""
    if solver not in solvers:
        raise PlanError(choose("solver", solver, solvers))
    entry = solvers[solver]
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise PlanError(f"steps: expected an integer in 1..{MAX_STEPS}, got {steps!r}")
    if end is not None and end not in get_args(End):
        raise PlanError(choose("end", end, get_args(End)))
    if reverse and end == "denoise":
        raise PlanError("end: expected 't_min' for a plan in reverse, which ends in noise, got 'denoise'")
    eta = _eta(solvers, entry, eta)
    chosen = _options(solvers, entry, options)
    noisy = entry.uses_noise or eta > 0
    if program is not None:
        if solver != "searched":
            raise PlanError(f"program: expected solver 'searched' beside it, got {solver!r}")
        if steps != program.steps:
            raise PlanError(f"steps: expected {program.steps}, those of the searched program, got {steps}")
    left, span = middle.remaining(steps, strength), path
    if strength != 1 or start_t is not None:
        asked_for = "strength" if start_t is None else "start_t"
        if reverse:
            raise PlanError(f"{asked_for}: expected none beside reverse, got both")
        if start_t is not None and grid is not None and not isinstance(grid, str):
            raise PlanError("start_t: expected none beside an explicit grid, got both")
    if start_t is not None:
        span = middle.starting(path, start_t, steps)
    rows = entry.rows(left, chosen) if entry.rows else left * entry.rows_per_step
    if entry.updates and rows > MAX_ROWS:
        raise PlanError(f"solver {solver!r}: expected at most {MAX_ROWS} network rows per sample, got {rows}")
    if grid is None and program is None:
        grid = default_grid(entry, span, steps, eta, chosen, end)
    if reverse and (noisy or entry.direct or program):
        raise _irreversible(solvers, solver)
    nodes = nodes_of(entry, grid, span, steps, reverse, end, program, begun=span is not path)
    nodes = middle.rest(nodes, steps, left)
    program = program.last(left) if program and left < steps else program
    updates: tuple[Update, ...] = ()
    opening, within, closing = around(nodes)
    if entry.updates:
        unmade = max(0, left + 1 - len(nodes))  # a placement leaves out a step that changes nothing
        updates, opening, closing = through(entry, Course(path, nodes, eta, chosen, program, unmade)), (), ()
    elif len(within) < 2:  # nothing is left for it to do
        updates, opening, closing = (*opening, *closing), (), ()
    noisy = noisy or any(any(map(any, update.C)) for update in updates)
    if reverse and noisy:  # by an option
        raise _irreversible(solvers, solver)
    trained = path if trained is None else trained
    asked = (*updates, *opening, *closing)
    _check_updates(solver, prediction, asked)
    at = torch.tensor([update.at.t for update in asked], dtype=torch.float64)
    rules = predictions.rules(path, at, prediction, preconditioning, sigma_data, trained, limit)
    _check_rules(prediction, rules)
    pairs = enumerate(zip(asked, rules, strict=True))
    stages = tuple(Stage(index=i, update=update, denoise=denoise) for i, (update, denoise) in pairs)
    table = len(updates)
    return Plan(
        solver=solver,
        path=path,
        trained=trained,
        prediction=prediction,
        preconditioning=preconditioning,
        sigma_data=sigma_data,
        grid=grid if isinstance(grid, str) else "explicit",
        eta=eta,
        options=tuple(sorted(chosen.items())),
        order=entry.order,
        reverse=reverse,
        uses_noise=noisy,
        nodes=nodes,
        stages=stages[:table],
        direct=None if updates else entry.direct,
        expected_rows=rows,
        limit=limit,
        end="denoise" if nodes[-1].sigma == 0 else "t_min",
        opening=stages[table : table + len(opening)],
        closing=stages[table + len(opening) :],
        within=() if updates else within,
        generates=entry.generates,
    )


def _check_updates(solver: str, prediction: str, updates: Sequence[Update]) -> None:
    """Refuse what no network can be asked, and coefficients that are no numbers."""
    for update in updates:
        at, to = update.at, update.to
        if at.alpha == 0 and prediction in SILENT:
            raise PlanError(
                f"prediction {prediction!r}: expected alpha above 0 where the network is asked, got 0 at t={at.t:g}: "
                "where nothing of the data is left, it takes a prediction x0, v or velocity to tell D"
            )
        if at.sigma == 0 or not finite(update):
            raise PlanError(
                f"solver {solver!r}: expected finite coefficients, got others in the step from t={at.t:g} to {to.t:g}, "
                f"where alpha is {at.alpha:g} and {to.alpha:g} and sigma {at.sigma:g} and {to.sigma:g}"
            )


def _check_rules(prediction: str, rules: Sequence[predictions.Denoise]) -> None:
    for rule in rules:
        if not all(map(math.isfinite, (rule.t, rule.scale, rule.state, rule.output))):
            raise PlanError(
                f"prediction {prediction!r}: expected finite weights of the state and the output in D, got "
                f"{rule.state} and {rule.output} at the network's time {rule.t}"
            )


def deterministic(solvers: Mapping[str, Solver]) -> list[str]:
    """The tables that draw no noise unless asked to, which run both ways; not the one that may need a program."""
    return [name for name, each in solvers.items() if each.updates and not each.uses_noise and name != "searched"]


def _irreversible(solvers: Mapping[str, Solver], solver: str) -> PlanError:
    able = ", ".join(name for name in sorted(deterministic(solvers)) if name != solver)
    return PlanError(
        f"solver {solver!r} cannot run in reverse, from data to noise, as asked for; "
        f"with eta 0 and no churn these can: {able}"
    )


def _eta(solvers: Mapping[str, Solver], entry: Solver, eta: float | None) -> float:
    """The noise level to use; a solver that always has noise has no eta 0, and one without has no other."""
    if eta is None:
        return entry.eta or 0.0
    if not 0 <= eta <= MAX_ETA:
        raise PlanError(f"eta: expected a number in 0..{MAX_ETA:g}, got {eta!r}")
    if eta > 0 and not entry.takes_eta:
        able = ", ".join(sorted(name for name, other in solvers.items() if other.takes_eta))
        raise PlanError(f"eta: solver {entry.name!r} takes eta 0 only, got {eta!r}; with eta above 0: {able}")
    if eta == 0 and entry.takes_eta and entry.uses_noise:
        instead = f"; without noise: {entry.twin}" if entry.twin else ""
        raise PlanError(f"eta: solver {entry.name!r} is stochastic, expected a number > 0, got {eta!r}{instead}")
    return float(eta)


def _options(solvers: Mapping[str, Solver], entry: Solver, options: Mapping[str, float]) -> dict[str, float]:
    """The solver's options with their defaults filled in."""
    for name, value in options.items():
        if name not in entry.options:
            able = ", ".join(sorted(other.name for other in solvers.values() if name in other.options))
            if not able:
                raise PlanError(choose("option", name, {key for other in solvers.values() for key in other.options}))
            raise PlanError(f"{name}: solver {entry.name!r} has no such option; solvers that have: {able}")
        option = entry.options[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not option.low <= value <= option.high or (option.whole and value % 1):
            kind = "a whole number" if option.whole else "a number"
            raise PlanError(f"{name}: expected {kind} in {option.low:g}..{option.high:g}, got {value!r}")
    return {name: float(options.get(name, option.default)) for name, option in entry.options.items()}
