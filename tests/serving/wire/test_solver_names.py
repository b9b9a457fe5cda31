"""Samplers by the names of other programs."""

import pytest

import steering
from serving.wire.defaults import completed
from serving.wire.parameters import Parameters
from serving.wire.solver_names import NONE, SAMPLERS, SCHEDULES, Named, instead, known, synonyms
from serving.wire.tensors import Parameter

PATH = steering.paths.vp_betas()


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_name_is_a_plan(name: str):
    found = known(name)
    assert found is not None
    path = steering.paths.rectified_flow(t_max=1.0, t_min=0.0) if name.startswith("flow") else PATH
    for grid in [found.grid, "levels/karras"][: 1 if name.startswith("flow") else 2]:
        steering.plan(found.solver, path=path, steps=6, prediction="v", grid=grid, end="denoise", **found.options)  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", SCHEDULES.values())
def test_every_schedule_is_a_grid(grid: str):
    plan = steering.plan("dpmpp_2m", path=PATH, steps=7, prediction="eps", grid=grid, end="denoise")
    assert plan.rows == 7


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpmpp_2m_karras", Named("dpmpp_2m", "levels/karras")),
        ("DPM++ 2M Karras", Named("dpmpp_2m", "levels/karras")),
        ("DPM++ 2M SDE Exponential", Named("sde_dpmpp_2m", "levels/exponential")),
        ("sample_dpmpp_2m_sde", Named("sde_dpmpp_2m")),
        ("Euler a", Named("euler_ancestral")),
        ("Euler", Named("euler")),
        ("euler_simple", Named("euler", "simple")),
        ("ddim_ddim_uniform", Named("ddim", "leading(1)")),
        ("dpmpp_2m_sgm_uniform", Named("dpmpp_2m", "linspace_open")),
        ("UniPCMultistepScheduler", Named("unipc_2", options={"lower_final": 1001.0})),
        ("UniPCMultistep", Named("unipc_2", options={"lower_final": 1001.0})),
        ("dpmpp_2m", None),
        ("no_such_karras", None),
        ("karras", None),
        ("a" * 10_000 + "_karras", None),
    ],
)
def test_names_are_read(name: str, expected: Named | None):
    assert known(name) == expected


def test_our_own_names_keep_their_meaning():
    assert all(known(name) is None for name in steering.solvers)
    assert not {*SAMPLERS, *NONE} & {*steering.solvers}


def test_what_has_no_equal_names_the_nearest():
    assert {*NONE.values(), *(each.solver for each in SAMPLERS.values())} <= {*steering.solvers}
    assert instead("DPM++ 3M SDE Karras") == "sde_dpmpp_2m"
    assert instead("lms") == "deis_rhoab3"
    assert instead("nothing") is None


def test_synonyms_are_listed_by_our_names():
    assert "euler_a" in synonyms()["euler_ancestral"]


DEFAULTS: dict[str, Parameter] = {
    "solver": "dpmpp_2m",
    "steps": 30,
    "grid": "leading_inner(1)",
    "lower_final": 15.0,
    "guidance": 7.5,
}


def done(**said: object) -> tuple[Parameters, dict[str, object]]:
    parameters, options = completed(Parameters.model_validate(said), {}, DEFAULTS)
    return parameters, dict(options)


def test_a_request_that_says_nothing_has_the_models_defaults():
    parameters, options = done()
    assert (parameters.solver, parameters.steps, parameters.grid) == ("dpmpp_2m", 30, "leading_inner(1)")
    assert parameters.guidance == 7.5
    assert options == {"lower_final": 15.0}
    assert not parameters.model_fields_set


def test_what_a_request_says_wins():
    parameters, options = done(solver="euler", steps=4, grid="logsnr", guidance=1.0)
    assert (parameters.solver, parameters.steps, parameters.grid) == ("euler", 4, "logsnr")
    assert parameters.guidance == 1.0
    assert options == {}


def test_a_schedule_in_a_name_is_said():
    parameters, _ = done(solver="euler_karras")
    assert (parameters.solver, parameters.steps, parameters.grid) == ("euler", 30, "levels/karras")
    parameters, _ = done(solver="euler_a")
    assert (parameters.solver, parameters.grid) == ("euler_ancestral", "leading_inner(1)")
    parameters, _ = done(solver="euler_karras", grid="logsnr")
    assert parameters.grid == "logsnr"


def test_options_of_the_default_solver_can_be_overruled_one_by_one():
    _, options = completed(Parameters(), {"lower_final": 0}, DEFAULTS)
    assert options == {"lower_final": 0}


@pytest.mark.parametrize("said", [{"likelihood": "data"}, {"reverse": True}])
def test_what_does_not_sample_has_no_default_plan(said: dict[str, object]):
    parameters, options = done(**said)
    assert (parameters.solver, parameters.steps, parameters.grid, options) == ("dpmpp_2m", 20, None, {})


@pytest.mark.parametrize("said", [{"path": "edm"}, {"start_t": 0.5}, {"solver": "searched"}])
def test_a_grid_of_trained_steps_is_for_its_own_path(said: dict[str, object]):
    assert done(**said)[0].grid is None


def test_a_card_may_use_another_programs_name():
    parameters, options = completed(Parameters(), {}, {"solver": "uni_pc_karras"})
    assert (parameters.solver, parameters.grid) == ("unipc_3", "levels/karras")
    assert options == {"bh": 1.0, "lower_final": 1001.0}
