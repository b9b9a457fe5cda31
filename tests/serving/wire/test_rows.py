"""The light table of network rows against the plans that `steering` compiles."""

from typing import Any

import pytest

import steering
from serving.wire.parameters import Parameters
from serving.wire.rows import DIRECT, SOLVERS, rows_of

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "pc": [{"corrections": 0}, {"corrections": 3}],
    "annealed_langevin": [{"corrections": 2}, {"corrections": 4.0}],
    "dlg": [{"denoise": 3}],
    **{name: [{"budget": 5}, {"budget": 2000, "rtol": 0.1}] for name in ("dpm_solver_12", "dpm_solver_23", "rk45")},
}


@pytest.mark.parametrize("solver", steering.solvers)
def test_rows_are_those_of_the_plan(solver: str):
    for steps in (1, 2, 3, 7, 20):
        for options in ({}, *OPTIONS.get(solver, [])):
            plan = steering.plan(solver, path=steering.paths.vp_cosine(), steps=steps, prediction="x0", **options)
            parameters = Parameters(samples=3, solver=solver, steps=steps)
            assert rows_of(parameters, options) == 3 * plan.most_rows, (steps, options)


@pytest.mark.parametrize("solver", steering.solvers)
def test_rows_of_plans_that_end_in_d(solver: str):
    for steps in (1, 2, 3, 4, 7, 20):
        for options in ({}, *OPTIONS.get(solver, [])):
            plan = steering.plan(
                solver, path=steering.paths.vp_betas(), steps=steps, prediction="x0", end="denoise", **options
            )
            parameters = Parameters(samples=3, solver=solver, steps=steps, end="denoise")
            assert rows_of(parameters, options) == 3 * plan.most_rows, (steps, options)
            assert (
                rows_of(Parameters(samples=3, solver=solver, steps=steps), options, plan.most_rows)
                == 3 * plan.most_rows
            )


def test_the_table_names_solvers_only():
    assert set(SOLVERS) <= set(steering.solvers)
    counting = {
        name for name, each in steering.solvers.items() if {"corrections", "budget", "denoise"} & set(each.options)
    }
    assert counting == set(OPTIONS)
    assert {name for name, each in steering.solvers.items() if each.direct} == set(DIRECT)
