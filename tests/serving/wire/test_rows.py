"""The light table of network rows against the plans that `steering` compiles."""

from typing import Any

import pytest

import steering
from serving.wire.parameters import Parameters
from serving.wire.rows import DIRECT, IN_TIME, SOLVERS, rows_of

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "pc": [{"corrections": 0}, {"corrections": 3}],
    "annealed_langevin": [{"corrections": 2}, {"corrections": 4.0}],
    "dlg": [{"denoise": 3}],
    **{name: [{"budget": 5}, {"budget": 2000, "rtol": 0.1}] for name in ("dpm_solver_12", "dpm_solver_23", "rk45")},
}


ENDLESS = {
    "flow": steering.paths.rectified_flow(t_min=0.0, t_max=1.0),
    "flow from t = .999": steering.paths.rectified_flow(t_min=0.0),
    "flow to t = .001": steering.paths.rectified_flow(t_max=1.0),
    "zero terminal": steering.paths.vp_betas(zero_terminal_snr=True).between(0.001, 1.0),
}


@pytest.mark.parametrize("solver", steering.solvers)
def test_rows_are_those_of_the_plan(solver: str):
    """A direct solver's are two more: a step before it and one after, which this path does not need."""
    more = 2 if solver in DIRECT else 0
    for steps in (1, 2, 3, 7, 20):
        for options in ({}, *OPTIONS.get(solver, [])):
            plan = steering.plan(solver, path=steering.paths.vp_cosine(), steps=steps, prediction="x0", **options)
            parameters = Parameters(samples=3, solver=solver, steps=steps)
            assert rows_of(parameters, options) == 3 * (plan.most_rows + more), (steps, options)


@pytest.mark.parametrize("solver", steering.solvers)
def test_rows_of_plans_that_end_in_d(solver: str):
    for steps in (1, 2, 3, 4, 7, 20):
        for options in ({}, *OPTIONS.get(solver, [])):
            plan = steering.plan(
                solver, path=steering.paths.vp_betas(), steps=steps, prediction="x0", end="denoise", **options
            )
            said = rows_of(Parameters(samples=3, solver=solver, steps=steps, end="denoise"), options)
            if solver in (*DIRECT, *IN_TIME):
                assert 0 <= said - 3 * plan.most_rows <= 3 * (1 if solver in DIRECT else 2), (steps, options)
            else:
                assert said == 3 * plan.most_rows, (steps, options)
            unsaid = Parameters(samples=3, solver=solver, steps=steps)  # the card says it
            assert rows_of(unsaid, options) >= 3 * plan.most_rows
            assert rows_of(unsaid, options, plan.most_rows) == 3 * plan.most_rows


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("solver", steering.solvers)
def test_rows_are_never_too_few(solver: str, name: str):
    """Where a path's end takes a step of its own, by a few rows too many."""
    for steps in (1, 2, 3, 4, 7, 20):
        for end in (None, "denoise"):
            for options in ({}, *OPTIONS.get(solver, [])):
                plan = steering.plan(solver, path=ENDLESS[name], steps=steps, prediction="x0", end=end, **options)
                said = rows_of(Parameters(samples=3, solver=solver, steps=steps, end=end), options)
                assert said >= 3 * plan.most_rows, (steps, end, options)


def test_the_table_names_solvers_only():
    assert set(SOLVERS) <= set(steering.solvers)
    counting = {
        name for name, each in steering.solvers.items() if {"corrections", "budget", "denoise"} & set(each.options)
    }
    assert counting == set(OPTIONS)
    assert {name for name, each in steering.solvers.items() if each.direct} == set(DIRECT)
