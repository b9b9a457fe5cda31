"""Plans of diffusers' scheduler configurations against diffusers' own loops, from the same noise."""

import inspect
import json
import math
from typing import Any

import diffusers
import pytest
from diffusers.utils import logging

from benchmarks._diffusers import compare
from exporters.diffusers.fields import DEFAULTS, ScheduleError
from exporters.diffusers.schedule import schedule
from protos.card import Card

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # of numpy, for diffusers' own code
STEPS = (5, 20, 50)
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LINEAR = {"beta_schedule": "linear"}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
ZERO = {**STABLE, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
TRAINED = {"trained_betas": [round(0.001 + 0.00003 * i, 6) for i in range(500)], "num_train_timesteps": 500}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
LINSPACE = {"timestep_spacing": "linspace"}
TRAILING = {"timestep_spacing": "trailing"}
KARRAS, EXPONENTIAL, BETA = ({f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta"))
MIN = {"final_sigmas_type": "sigma_min"}
FLOW = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
DDIM, DPM, UNIPC, EULER = (
    "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler",
)  # fmt: skip
FLOW_EULER, FLOW_HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"


@pytest.fixture(autouse=True)
def _quiet():
    logging.set_verbosity_error()


def config(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {"_class_name": name}
    for part in parts:
        whole |= part
    return whole


def check(whole: dict[str, Any], tolerance: float = 1e-5, steps: tuple[int, ...] = STEPS, **told: Any) -> None:
    for count in steps:
        found = compare(whole, count, 64, **told)
        assert found.rms <= tolerance, (whole, count, found)
        assert found.largest <= 30 * tolerance, (whole, count, found)


@pytest.mark.parametrize("spacing", [LEADING, {"timestep_spacing": "leading"}, TRAILING])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("betas", [STABLE, COSINE, TRAINED])
def test_ddim(betas: dict[str, Any], last: bool, spacing: dict[str, Any]):
    check(config(DDIM, betas, spacing, {"set_alpha_to_one": last, "clip_sample": False}))


@pytest.mark.parametrize(
    "extra",
    [
        {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.7},
        {"clip_sample": False, "thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5},
        {"clip_sample": False, "prediction_type": "sample"},
        {"clip_sample": False, **ZERO, **TRAILING},
        {"clip_sample": False, **ZERO, **LEADING},
    ],
)
def test_ddim_with_limits_and_other_predictions(extra: dict[str, Any]):
    check(config(DDIM, LINEAR, extra))


@pytest.mark.parametrize("name", [DPM, UNIPC])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("final", [{}, MIN])
@pytest.mark.parametrize("placed", [{**STABLE, **LEADING}, {**COSINE, **LINSPACE}, {**ZERO, **TRAILING}])
def test_multistep_solvers(name: str, order: int, final: dict[str, Any], placed: dict[str, Any]):
    check(config(name, placed, final, {"solver_order": order}), steps=(5, 20))


@pytest.mark.parametrize("name", [DPM, UNIPC])
@pytest.mark.parametrize("betas", [STABLE, LINEAR, ZERO])
def test_multistep_solvers_at_karras_levels(name: str, betas: dict[str, Any]):
    check(config(name, betas, KARRAS))


@pytest.mark.parametrize("name", [DPM, UNIPC, "DEISMultistepScheduler"])
@pytest.mark.parametrize("levels", [EXPONENTIAL, BETA])
def test_multistep_solvers_at_other_levels(name: str, levels: dict[str, Any]):
    """Theirs cut timesteps to whole numbers after rounding, which moves some by one."""
    check(config(name, STABLE, levels), tolerance=1e-3)
    check(config(name, {**STABLE, "prediction_type": "v_prediction"}, levels), tolerance=1e-3)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        (DPM, {"solver_type": "heun"}),
        (DPM, {"euler_at_final": True, **MIN}),
        (DPM, {"lower_order_final": False, "solver_order": 3, **MIN}),
        (DPM, {"use_lu_lambdas": True}),
        (DPM, {"thresholding": True, "sample_max_value": 2.0}),
        (DPM, {"prediction_type": "sample"}),
        (DPM, {**COSINE, "lambda_min_clipped": -5.1}),
        (DPM, {**COSINE, "lambda_min_clipped": -5.1, **LEADING}),
        (DPM, {**KARRAS, **MIN}),
        (DPM, FLOW),
        (UNIPC, FLOW),
        (UNIPC, {"solver_type": "bh1", **MIN}),
        (UNIPC, {"lower_order_final": False, **MIN}),
        (UNIPC, {"thresholding": True}),
    ],
)
def test_fields_of_multistep_solvers(name: str, extra: dict[str, Any]):
    check(config(name, STABLE, extra))


@pytest.mark.parametrize("spacing", [LEADING, LINSPACE, TRAILING])
@pytest.mark.parametrize("levels", [{}, KARRAS, EXPONENTIAL, BETA])
@pytest.mark.parametrize("betas", [STABLE, {**LINEAR, "prediction_type": "sample"}])
def test_euler(betas: dict[str, Any], levels: dict[str, Any], spacing: dict[str, Any]):
    # long steps from a high rho cancel in single precision, which theirs are in
    check(config(EULER, betas, spacing, levels), tolerance=1e-4 if levels is BETA else 1e-5, steps=(5, 20))


@pytest.mark.parametrize(
    "extra",
    [
        {"timestep_type": "continuous", "prediction_type": "v_prediction"},
        {"timestep_type": "continuous", "prediction_type": "v_prediction", **KARRAS, "sigma_min": 0.002,
         "sigma_max": 700.0},
        {**KARRAS, "sigma_min": 0.1, "sigma_max": 10.0},
        {**COSINE, **LEADING},
        TRAINED,
    ],
)  # fmt: skip
def test_fields_of_euler(extra: dict[str, Any]):
    check(config(EULER, STABLE, extra))


def test_euler_without_its_last_step_is_diffusers_times_alpha():
    found = compare(config(EULER, STABLE, MIN), 20, 64)
    assert 4e-4 < found.rms < 5e-4
    (note,) = schedule(config(EULER, STABLE, MIN)).notes
    assert "0.00043 larger" in note


def test_zero_terminal_snr_in_rho():
    """Steps from a rho of 4096 in single precision, which theirs are in."""
    for spacing in (LEADING, LINSPACE, TRAILING):
        check(config(EULER, ZERO, spacing), tolerance=2e-5)
        check(config(EULER, ZERO, spacing, KARRAS), tolerance=2e-5)


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler"])
@pytest.mark.parametrize("extra", [LEADING, TRAILING, {**LEADING, **EXPONENTIAL}])
def test_heun_and_midpoint(name: str, extra: dict[str, Any]):
    check(config(name, STABLE, extra), tolerance=3e-5, steps=(5, 20))


@pytest.mark.parametrize("spacing", [LEADING, {"timestep_spacing": "leading"}, TRAILING])
def test_pndm(spacing: dict[str, Any]):
    check(config("PNDMScheduler", STABLE, spacing, {"skip_prk_steps": True}))


def test_pndm_without_an_equal_is_noted():
    for extra, field in (
        ({}, "skip_prk_steps"),
        ({"skip_prk_steps": True, "set_alpha_to_one": True}, "set_alpha_to_one"),
        ({"skip_prk_steps": True, "prediction_type": "v_prediction"}, "prediction_type"),
        ({"skip_prk_steps": True, **LINSPACE}, "timestep_spacing"),
    ):
        made = schedule(config("PNDMScheduler", STABLE, extra))
        assert made.defaults is None or made.defaults.solver is None
        assert field in made.notes[0]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("placed", [LEADING, LINSPACE, KARRAS])
def test_deis(order: int, placed: dict[str, Any]):
    """Their third order cancels in single precision."""
    check(
        config("DEISMultistepScheduler", STABLE, placed, {"solver_order": order}), tolerance=3e-4 if order > 2 else 1e-5
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("levels", [{}, KARRAS, EXPONENTIAL, BETA])
def test_flow_euler(shift: float, levels: dict[str, Any]):
    check(config(FLOW_EULER, {"shift": shift}, levels))


def test_flow_euler_with_the_pipelines_sigmas():
    dynamic = {"use_dynamic_shifting": True}
    mu = 0.5 + 0.65 * (1024 - 256) / (4096 - 256)
    check(config(FLOW_EULER, {"shift": 3.0}), even=True)
    check(config(FLOW_EULER, dynamic), even=True, mu=mu, image_seq_len=1024)
    check(config(FLOW_EULER, dynamic), mu=mu, image_seq_len=1024)
    check(config(FLOW_EULER, dynamic, {"shift_terminal": 0.1}), even=True, mu=mu, image_seq_len=1024)
    check(config(FLOW_HEUN, {"shift": 3.0}))


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize(
    "extra", [{}, {"sigma_schedule": "exponential"}, MIN, {"prediction_type": "v_prediction"}, {"rho": 5.0}]
)
def test_edm(name: str, extra: dict[str, Any]):
    check(config(name, extra))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30, 333])
def test_any_number_of_steps(steps: int):
    for whole in (
        config(DDIM, STABLE, LEADING, {"clip_sample": False}),
        config(DPM, STABLE, LINSPACE),
        config(UNIPC, STABLE, LINSPACE),
        config(EULER, STABLE, LINSPACE),
        config(FLOW_EULER, {"shift": 3.0}),
    ):
        check(whole, tolerance=5e-5, steps=(steps,))


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_diffusers_own(name: str):
    signature = inspect.signature(getattr(diffusers, name).__init__).parameters
    theirs = {key: each.default for key, each in signature.items() if key not in ("self", "kwargs")}
    assert dict(DEFAULTS[name]) == theirs


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_class_makes_a_card(name: str):
    made = schedule({"_class_name": name, "_diffusers_version": "0.42.1"}, steps=12)
    card = Card.model_validate({"name": "m", "event_shape": [4], "inputs": {"time": made.time}, **made.card})
    assert card.defaults is not None
    assert card.defaults.steps == 12


@pytest.mark.parametrize(
    ("whole", "expected"),
    [
        ({}, "scheduler: expected a class's name under '_class_name', got None"),
        ({"_class_name": "LMSDiscreteScheduler"}, "unknown scheduler 'LMSDiscreteScheduler' (did you mean "),
        (config(DDIM, {"beta_schedule": "laplace"}), "DDIMScheduler: beta_schedule: expected one of linear, "),
        (config(DDIM, {"beta_start": -1}), "DDIMScheduler: beta_start: expected a number in "),
        (config(DDIM, {"prediction_type": "flow"}), "DDIMScheduler: prediction_type: expected one of epsilon, "),
        (config(DDIM, {"timestep_spacing": "odd"}), "DDIMScheduler: timestep_spacing: expected one of leading, "),
        (config(DDIM, {"steps_offset": 1.5}), "DDIMScheduler: steps_offset: expected a whole number in 0..10000"),
        (config(DDIM, {"trained_betas": [0.1, 2]}), "DDIMScheduler: trained_betas: expected 2..100000 numbers"),
        (
            config(DDIM, ZERO, {"prediction_type": "epsilon"}, TRAILING),
            "prediction 'eps': expected alpha above",
        ),
        (config(DPM, {"algorithm_type": "dpmsolver"}, MIN), "algorithm_type: expected dpmsolver++ or sde-dpmsolver++"),
        (config(DPM, KARRAS, BETA), "expected one of karras, exponential, beta and lu, got karras and beta"),
        (config(DPM, {"thresholding": "yes"}), "thresholding: expected true or false, got 'yes'"),
        (config(UNIPC, {"predict_x0": False}), "UniPCMultistepScheduler: predict_x0: expected true, got False"),
        (config(UNIPC, {"disable_corrector": [0]}), "disable_corrector: expected none, got [0]"),
        (config(EULER, {"interpolation_type": "log_linear"}), "interpolation_type: expected one of linear, got"),
        (config(EULER, KARRAS, {"sigma_max": 700.0}), "sigma_min, sigma_max: expected numbers in"),
        (config(FLOW_EULER, {"invert_sigmas": True}), "invert_sigmas: expected false, got True"),
        (config(FLOW_EULER, {"use_dynamic_shifting": True}), "use_dynamic_shifting: expected false, or a pipeline"),
        (config(FLOW_EULER, {"shift": math.nan}), "shift: expected a number in 0.01..100, got nan"),
    ],
)
def test_what_cannot_be_honoured_is_named(whole: dict[str, Any], expected: str):
    with pytest.raises(ScheduleError) as caught:
        schedule(whole)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_of_other_classes_are_noted():
    made = schedule(config(DDIM, {"skip_prk_steps": True, "clip_sample": False, "_diffusers_version": "0.6"}))
    assert made.notes == ("DDIMScheduler has no skip_prk_steps: left aside, as diffusers does",)


def test_where_only_the_solver_is_missing_the_card_is_made():
    made = schedule(config("DDPMScheduler", {"variance_type": "learned_range"}))
    assert made.learned_variance
    assert made.defaults is None
    assert "variance_type" in made.notes[0]
    made = schedule(config(DDIM, LINSPACE), steps=50)
    assert made.defaults is not None
    assert made.defaults.solver is None
    assert "linspace" in made.notes[0]


def test_a_configuration_of_stable_diffusion():
    text = """{"_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.8.0", "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "algorithm_type": "dpmsolver++", "clip_sample": false,
        "lower_order_final": true, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true,
        "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": null, "prediction_type": "epsilon"}"""
    made = schedule(json.loads(text), steps=25)
    assert made.path["schedule"] == "scaled_linear"
    assert made.prediction == "eps"
    assert made.time == "N*t-1"
    assert made.defaults is not None
    assert (made.defaults.solver, made.defaults.steps, made.defaults.grid) == ("dpmpp_2m", 25, "leading_inner(1)")
    check(json.loads(text), steps=(25,))


def test_noise_a_step_is_theirs():
    """Ancestral steps and those of the SDE, whose noises are told to both."""
    from benchmarks._diffusers import compare_noisy

    for whole in (
        config("DDPMScheduler", LINEAR, LEADING, {"clip_sample": False}),
        config("DDPMScheduler", LINEAR, TRAILING),
        config("EulerAncestralDiscreteScheduler", STABLE, LINSPACE),
        config("EulerAncestralDiscreteScheduler", STABLE, LEADING),
        config(DPM, STABLE, {"algorithm_type": "sde-dpmsolver++"}),
        config(DPM, STABLE, KARRAS, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
        config("LCMScheduler", STABLE),
        config(FLOW_EULER, {"shift": 3.0, "stochastic_sampling": True}),
    ):
        for steps in (4, 20):
            found = compare_noisy(whole, steps)
            assert found.rms <= 3e-5, (whole, steps, found)
