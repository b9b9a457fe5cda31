"""The best that the solver table can do without a search: every deterministic table on every named grid."""

from collections.abc import Generator
from dataclasses import dataclass

from torch import Tensor

from steering.errors import PlanError
from steering.plans import grids
from steering.plans.compile import deterministic
from steering.plans.plan import Plan
from steering.sampling.rows import Rows
from steering.search.trial import Trial, compiler
from steering.solvers import SOLVERS

JUDGED = 8
"""Best plans on few states that are then run on all."""


@dataclass(frozen=True)
class Fixed:
    """A solver of the table on a grid, and its error on held-out noise."""

    solver: str
    grid: str
    error: float


def plans_of(like: Plan, rows: int) -> list[Plan]:
    """Every deterministic table on every named grid that takes exactly `rows` network rows."""
    compiled, found = compiler(like), []
    for name in deterministic(SOLVERS):
        for grid in grids.GRIDS:
            for steps in range(rows // SOLVERS[name].rows_per_step + 1, 0, -1):
                try:
                    plan = compiled(name, steps, grid=grid)
                except PlanError:  # not on this path, or not in this many steps
                    continue
                if plan.rows == rows and not plan.uses_noise:
                    found.append(plan)
                if plan.rows <= rows:
                    break
    return found


def best_fixed(trial: Trial, screen: Trial, rows: int) -> Generator[Rows, Tensor, Fixed]:
    """The table's best by the trial; all are run on `screen`, the best of them on the whole."""
    plans = plans_of(trial.problem.plan, rows)
    screened = yield from screen.errors(plans)
    judged = [plan for _, plan in sorted(zip(screened, plans, strict=True), key=lambda pair: pair[0])[:JUDGED]]
    errors = yield from trial.errors(judged)
    error, plan = min(zip(errors, judged, strict=True), key=lambda pair: pair[0])
    return Fixed(plan.solver, plan.grid, error)
