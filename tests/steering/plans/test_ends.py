"""Plans from and to the ends of paths, where alpha or sigma is 0, and plans that end in D."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.errors import NetworkError, PlanError
from steering.paths import Path
from steering.plans.plan import End, Plan

MEAN, SPREAD = 1.5, 0.4
ENDS: tuple[End, ...] = ("t_min", "denoise")

ENDLESS: dict[str, Path] = {
    "flow 0..1": paths.rectified_flow(t_min=0, t_max=1),
    "flow 0...999": paths.rectified_flow(t_min=0),
    "flow .001..1": paths.rectified_flow(t_max=1),
    "shifted flow 0..1": paths.rectified_flow(t_min=0, t_max=1, shift=3),
    "edm 0..80": paths.edm().between(0, 80),
    "trig 0..1": paths.trig_flow(t_min=0, t_max=1),
    "sbdm 0..1": paths.one_sided(coefficients="sbdm", t_min=0, t_max=1),
    "zero terminal SNR": paths.vp_betas(zero_terminal_snr=True, t_max=1),
    "vp_linear from 0": paths.vp_linear(t_min=0),
    "vp_cosine from 0": paths.vp_cosine(t_min=0),
    "sub_vp from 0": paths.sub_vp(t_min=0),
    "mean_reverting from 0": paths.mean_reverting(t_min=0),
}
STEPS = {"annealed_langevin": 300, "dlg": 60, "pc": 100, "sde_dpmpp_1": 150, "euler_ancestral": 150, "euler": 80}
STEPS |= {"interpolant_sde": 300}


def gaussian(path: Path, prediction: str, mean: float = MEAN, spread: float = SPREAD) -> Callable[..., Tensor]:
    """What a network says of N(mean, spread^2); it is never asked where sigma is 0, which tells nothing."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma, da, ds = (
            f(t)[:, None].to(x.dtype) for f in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot)
        )
        assert bool((sigma > 0).all())
        denoised = mean + alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * (x - alpha * mean)
        eps = (x - alpha * denoised) / sigma
        said = {"x0": denoised, "eps": eps, "v": alpha * eps - sigma * denoised, "velocity": da * denoised + ds * eps}
        return said[prediction]

    return network


def drawn(plan: Plan, path: Path, n: int = 2000, spread: float = SPREAD, **other: Any) -> Tensor:
    network = gaussian(path, plan.prediction, spread=spread)
    return steering.run(plan, network, (n, 2), seed=3, dtype=torch.float64, tile=None, **other)


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("solver", steering.solvers)
def test_every_solver_draws_from_path_ends_of_0(solver: str, name: str):
    """At any number of steps finite, and with enough of them the law of the data."""
    path = ENDLESS[name]
    prediction = "v" if path.alpha(path.t_max) < 1e-9 or name.startswith("mean") else "velocity"
    for steps in (1, 2, 3, 5, 10):
        x = drawn(steering.plan(solver, path=path, steps=steps, prediction=prediction), path, 20)
        assert bool(x.isfinite().all())
    # where sigma grows like the root of t, a step in t leaves out much of the way to it
    few = 300 if name.startswith("sbdm") and solver.startswith("flow") else 40
    steps = 300 if solver == "interpolant_ode" and name.startswith("sbdm") else STEPS.get(solver, few)
    x = drawn(steering.plan(solver, path=path, steps=steps, prediction=prediction), path)
    if solver == "consistency":  # for which D is a sample
        return
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.06)
    # adaptive solvers with their own tolerance of .05
    assert float(x.std()) == pytest.approx(SPREAD, rel=0.2 if solver in ("dpm_solver_12", "dpm_solver_23") else 0.1)


@pytest.mark.parametrize("prediction", ["x0", "v", "velocity"])
def test_a_plan_through_both_ends_is_right_whatever_the_network_says(prediction: str):
    for name in ("flow 0..1", "trig 0..1", "sbdm 0..1"):
        path = ENDLESS[name]
        for solver in ("dpmpp_2m", "unipc_2", "sde_dpmpp_2m", "deis_tab3", "heun", "trig_adams_2"):
            x = drawn(steering.plan(solver, path=path, steps=30, prediction=prediction), path)
            assert (float(x.mean()), float(x.std())) == pytest.approx((MEAN, SPREAD), rel=0.06), solver


@pytest.mark.parametrize("prediction", ["eps", "score"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "flow_euler", "rk45", "dlg", "trig_adams_2", "heun"])
def test_predictions_that_say_nothing_of_data_need_some_at_the_start(solver: str, prediction: str):
    with pytest.raises(
        PlanError, match=rf"^prediction '{prediction}': expected alpha above 0 .* got 0 at t=1: [^\n]*$"
    ):
        steering.plan(solver, path=ENDLESS["flow 0..1"], steps=10, prediction=prediction)
    steering.plan(solver, path=ENDLESS["flow 0...999"], steps=10, prediction=prediction)


def test_an_edm_network_is_asked_at_an_alpha_of_0():
    """c_in x is x / sigma there and c_out sigma_data, the limits of their formulas."""
    rule = steering.predictions.denoise(ENDLESS["flow 0..1"], 1.0, "x0", "edm", 0.5)
    assert (rule.scale, rule.state, rule.output) == (1.0, 0.0, 0.5)
    near = steering.predictions.denoise(ENDLESS["flow 0..1"], 1 - 1e-9, "x0", "edm", 0.5)
    assert (near.scale, near.state, near.output) == pytest.approx((1.0, 0.0, 0.5), abs=1e-8)


def test_eulers_method_on_a_flow_from_1_to_0_is_the_usual_loop():
    path = ENDLESS["flow 0..1"]
    network, steps = gaussian(path, "velocity"), 8
    plan = steering.plan("flow_euler", path=path, steps=steps, prediction="velocity")
    x = start = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i in range(steps):
        x = x - network(x, torch.full((5,), 1 - i / steps, dtype=torch.float64)) / steps
    torch.testing.assert_close(steering.run(plan, network, (5, 2), x_init=start, dtype=torch.float64), x)


@pytest.mark.parametrize("solver", [name for name, each in steering.solvers.items() if each.updates])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_plan_that_ends_in_d_takes_no_more_rows(solver: str, steps: int):
    path = paths.vp_betas()
    plain = steering.plan(solver, path=path, steps=steps, prediction="eps")
    denoised = steering.plan(solver, path=path, steps=steps, prediction="eps", end="denoise")
    assert (plain.end, denoised.end) == ("t_min", "denoise")
    assert denoised.rows <= plain.rows
    assert denoised.steps == steps
    assert denoised.nodes[-1].sigma == 0
    if plain.rows == steps:
        assert denoised.rows == steps


def test_d_is_what_the_last_evaluation_says():
    path = paths.vp_betas()
    plan = steering.plan("dpmpp_2m", path=path, steps=20, prediction="eps", end="denoise")
    before = steering.plan("dpmpp_2m", path=path, steps=19, prediction="eps")
    assert [stage.update for stage in plan.stages[:-1]] == [stage.update for stage in before.stages]
    x, network = drawn(before, path, 50), gaussian(path, "eps")
    rule = before.denoise(path.t_min)
    d = rule(x, network(rule.scaled(x), torch.full((50,), path.t_min, dtype=torch.float64)))
    torch.testing.assert_close(drawn(plan, path, 50), d)


def test_data_finer_than_the_last_noise_level_come_out_without_it():
    """Of standard deviation .02 on Stable Diffusion's betas, whose cleanest level has .029: .035 with that noise."""
    path = paths.vp_betas()
    plans = {end: steering.plan("dpmpp_2m", path=path, steps=30, prediction="eps", end=end) for end in ENDS}
    spreads = {end: float(drawn(plan, path, spread=0.02).std()) for end, plan in plans.items()}
    assert spreads["t_min"] == pytest.approx(math.hypot(0.02, 0.0292), rel=0.02)
    assert spreads["denoise"] < 0.02  # what D keeps of them, s^2 / sqrt(s^2 + rho^2)
    assert spreads["denoise"] == pytest.approx(0.0113, rel=0.02)


@pytest.mark.parametrize("solver", ["rk45", "dpm_solver_23", "dlg"])
def test_direct_samplers_end_in_d_for_one_row_more(solver: str):
    path = paths.vp_linear()
    plain, denoised = (
        steering.plan(solver, path=path, steps=20, prediction="eps", end=end) for end in ("t_min", "denoise")
    )
    assert (denoised.rows, denoised.most_rows) == (plain.rows + 1, plain.most_rows + 1)
    x, report = drawn(denoised, path, 40, report=True)
    y, before = drawn(plain, path, 40, report=True)
    assert report.network_rows == before.network_rows + 40
    torch.testing.assert_close(x, y, rtol=0, atol=0.06)
    assert not torch.equal(x, y)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"end": "clean"}, "unknown end 'clean': expected one of denoise, t_min"),
        ({"end": "denoise", "reverse": True}, "end: expected 't_min' for a plan in reverse, .* got 'denoise'"),
        ({"end": "denoise", "grid": (0.9, 0.6, 0.3, 0.1), "steps": 3}, "3 steps, the last to D, has 3 times, got 4"),
        ({"path": ENDLESS["flow 0..1"], "grid": (1, 0.5, 0.0), "steps": 2, "reverse": True}, "sigma 0 at t=0"),
    ],
)
def test_ends_that_do_not_fit_are_refused(changes: dict[str, Any], complaint: str):
    arguments: dict[str, Any] = {"solver": "ddim", "path": paths.vp_cosine(), "steps": 4, "prediction": "v"}
    with pytest.raises(PlanError, match=complaint):
        steering.plan(**arguments | changes)


def test_explicit_grids_reach_the_ends():
    path = ENDLESS["flow 0..1"]
    plan = steering.plan("dpmpp_2m", path=path, steps=4, prediction="v", grid=(1, 0.7, 0.4, 0.1, 0))
    assert [node.t for node in plan.nodes] == [1, 0.7, 0.4, 0.1, 0]
    assert (plan.end, len(plan.stages)) == ("denoise", 4)
    same = steering.plan("dpmpp_2m", path=path, steps=4, prediction="v", grid=(1, 0.7, 0.4, 0.1), end="denoise")
    assert [stage.update.A for stage in same.stages] == [stage.update.A for stage in plan.stages]


def test_programs_of_every_step_reach_the_ends():
    from steering.plans.program import Choice

    program = steering.Program((0, 0.2, 0.4, 0.6, 0.8, 1), (Choice("data", 2), *[Choice("noise", 3, "rho")] * 4))
    for path in (ENDLESS["flow 0..1"], ENDLESS["edm 0..80"], paths.vp_cosine()):
        plan = steering.plan("searched", path=path, steps=5, prediction="v", program=program, end="denoise")
        assert (plan.steps, plan.rows, plan.nodes[-1].sigma) == (5, 5, 0)
        assert bool(drawn(plan, path, 20).isfinite().all())


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "flow_heun", "trig_adams_2", "reversible_heun"])
def test_inversion_starts_from_the_cleanest_level(solver: str, name: str):
    path = ENDLESS[name]
    plan = steering.plan(solver, path=path, steps=60, prediction="v")
    problem = steering.Problem(plan=plan, event=(2,), dtype=torch.float64)
    data = MEAN + SPREAD * torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    trip = steering.solve(steering.round_trip(problem, data), gaussian(path, "v"), tile=None)
    assert bool(trip.noise.isfinite().all())
    assert float(trip.error.max()) < 0.5 * SPREAD
    assert float(trip.noise.std()) == pytest.approx(float(path.sigma(path.t_max)), rel=0.35)


@pytest.mark.parametrize("name", ENDLESS)
def test_likelihoods_take_the_nodes_that_have_a_level(name: str):
    path = ENDLESS[name]
    plan = steering.plan("ddim", path=path, steps=60, prediction="v", grid="logsnr")
    x = MEAN + SPREAD * torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = steering.Problem(plan=plan, event=(2,), dtype=torch.float64)
    judged = steering.log_likelihood(problem, x, steering.Noise(0, range(20)), exact=True)
    found = steering.solve(judged, gaussian(path, "v"), tile=None)
    exact = torch.distributions.Normal(MEAN, SPREAD).log_prob(x).sum(dim=1)
    torch.testing.assert_close(found.log_density, exact.to(torch.float64), rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", ["flow 0..1", "flow 0...999", "edm 0..80", "vp_linear from 0"])
@pytest.mark.parametrize("posterior", ["bank", "gaussian", "neighbours", "mixture", "rollout"])
def test_steering_works_through_the_ends(name: str, posterior: str):
    """Toward exp(x) the mean of N(m, s^2) moves by s^2."""
    path = ENDLESS[name]
    bank = MEAN + SPREAD * torch.randn(3000, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    makers: dict[str, Callable[[], Any]] = {
        "bank": lambda: steering.posteriors.bank(bank),
        "gaussian": steering.posteriors.gaussian,
        "neighbours": lambda: steering.posteriors.neighbours(bank),
        "mixture": lambda: steering.posteriors.mixture(bank),
        "rollout": lambda: steering.posteriors.rollout(8),
    }
    doob = steering.Doob(lambda x: x.sum(dim=1), 0.5, posterior=makers[posterior](), refresh=False)
    plan = steering.plan("dpmpp_2m", path=path, steps=20, prediction="v")
    network, n = gaussian(path, "v"), 60 if posterior == "rollout" else 400
    x = steering.run(plan, network, (n, 2), seed=3, dtype=torch.float64, tile=None, steer=doob)
    # few roll-outs of few steps fall short, on any path
    assert float(x.mean()) == pytest.approx(MEAN + SPREAD**2 / 0.5, abs=0.25 if posterior == "rollout" else 0.12)


@pytest.mark.parametrize("method", ["Dps", "LgdMc", "Tfg", "ClassifierGuidance", "Doit"])
def test_guidance_by_gradients_begins_where_there_are_data(method: str):
    path = ENDLESS["flow 0..1"]
    plan = steering.plan("ddim", path=path, steps=20, prediction="v", eta=1.0)
    made = getattr(steering.baselines, method)(lambda x: x.sum(dim=1))
    x = steering.run(plan, gaussian(path, "v"), (100, 2), seed=3, dtype=torch.float64, tile=None, steer=made)
    assert bool(x.isfinite().all())
    assert float(x.mean()) > MEAN


def test_outputs_that_overflow_are_an_error_and_no_samples():
    plan = steering.plan("ddim", path=paths.rectified_flow(), steps=3, prediction="eps")
    with pytest.raises(
        NetworkError, match=r"samples: expected finite numbers, got NaN or infinity in sample 0: .* float32"
    ):
        steering.run(plan, lambda x, t: torch.full_like(x, 3e38), (3, 2))


def test_a_start_at_the_mean_of_the_data_leaves_no_gap():
    """N(2, 3^2) on Stable Diffusion's betas: .41 of the mean are missing without it, in closed form and in samples."""
    path = paths.vp_betas()
    network = gaussian(path, "eps", 2.0, 3.0)
    plan = steering.plan("dpmpp_2m", path=path, steps=60, prediction="eps")
    alpha, sigma = float(path.alpha(1)), float(path.sigma(1))
    gap = alpha * 3 * 2 / math.hypot(alpha * 3, sigma)
    arguments: dict[str, Any] = {"shape": (4000, 2), "seed": 5, "dtype": torch.float64, "tile": None}
    plain = steering.run(plan, network, **arguments)
    centred = steering.run(plan, network, **arguments, start_mean=torch.full((2,), 2.0))
    assert gap == pytest.approx(0.4, abs=0.02)
    assert float((centred - plain).mean()) == pytest.approx(gap, rel=0.01)
    assert float(centred.mean()) == pytest.approx(2.0, abs=4 * 3 / 8000**0.5)
    torch.testing.assert_close(centred - plain, (centred - plain)[:1].expand_as(plain))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"start_mean": torch.zeros(3)}, r"start_mean: expected shape \[2\], got \[3\]"),
        ({"start_mean": torch.zeros(2), "x_init": torch.zeros(4, 2)}, "expected none beside x_init"),
        ({"start_mean": torch.zeros(2), "mean": torch.zeros(1, 2)}, "expected none beside mean"),
    ],
)
def test_starts_at_a_mean_that_do_not_fit_are_refused(arguments: dict[str, Any], complaint: str):
    plan = steering.plan("ddim", path=paths.vp_cosine(), steps=2, prediction="eps")
    with pytest.raises(PlanError, match=complaint):
        steering.run(plan, gaussian(paths.vp_cosine(), "eps"), (4, 2), **arguments)
