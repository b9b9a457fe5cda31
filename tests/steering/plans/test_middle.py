"""Starts between noise and data, against the flow of a Gaussian, which is known."""

import importlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.errors import PlanError
from steering.numerics.noise import START, Draw, Noise
from steering.paths import Path
from steering.plans.program import Choice, Program
from steering.problems import GaussianMixture

MEAN, STD = 0.7, 0.4


def gaussian(path: Path) -> Any:
    """The exact D of data N(MEAN, STD^2), as a network."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (f(t.to(torch.float64)).to(x.dtype)[:, None] for f in (path.alpha, path.sigma))
        return MEAN + alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2) * (x - alpha * MEAN)

    return network


@pytest.mark.parametrize(
    ("steps", "strength", "left"),
    [(20, 0.5, 10), (20, 0.55, 11), (20, 0.54, 10), (100, 0.29, 29), (10, 0.7, 7), (3, 1.0, 3), (20, 0.05, 1)],
)
def test_the_last_steps_of_the_grid_are_left(steps: int, strength: float, left: int):
    whole = steering.plan("dpmpp_2m", path=paths.vp_cosine(), steps=steps, prediction="eps")
    plan = steering.plan("dpmpp_2m", path=paths.vp_cosine(), steps=steps, prediction="eps", strength=strength)
    assert (plan.steps, plan.rows) == (left, left)
    assert [node.t for node in plan.nodes] == [node.t for node in whole.nodes[steps - left :]]


@pytest.mark.parametrize("solver", [name for name, each in steering.solvers.items() if each.updates])
def test_every_table_starts_in_the_middle(solver: str):
    """Its rows are those of so many steps, and the law where it ends is that of the data: it starts from p_t."""
    path = paths.vp_cosine()
    plan = steering.plan(solver, path=path, steps=40, prediction="x0", strength=0.5)
    assert plan.rows == steering.plan(solver, path=path, steps=20, prediction="x0").rows
    if solver == "consistency":  # a denoiser is no consistency model
        return
    data = MEAN + STD * torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    x = steering.run(plan, gaussian(path), (4000, 1), x_init=steering.Noised(data), tile=None)
    tolerance = {"annealed_langevin": 0.2, "euler_ancestral": 0.1}.get(solver, 0.05)
    assert float(x.mean()) == pytest.approx(MEAN, abs=tolerance)
    assert float(x.std()) == pytest.approx(STD, abs=tolerance)


@pytest.mark.parametrize("solver", ["rk45", "dpm_solver_12", "dpm_solver_23", "dlg"])
def test_solvers_that_are_no_tables_start_in_the_middle_too(solver: str):
    path = paths.vp_cosine()
    plan = steering.plan(solver, path=path, steps=10, prediction="x0", strength=0.5)
    data = MEAN + STD * torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    x = steering.run(plan, gaussian(path), (2000, 1), x_init=steering.Noised(data), tile=None)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(x.std()) == pytest.approx(STD, abs=0.05)


def test_what_becomes_of_one_image(path: Path):
    """x_s = alpha c + sigma eps, and along the flow (x_t - alpha_t m) / sqrt(alpha_t^2 s^2 + sigma_t^2) stays."""
    plan = steering.plan("dpmpp_2m", path=path, steps=600, prediction="x0", strength=0.4, grid="logsnr")
    c = torch.full((500, 1), 2.0, dtype=torch.float64)
    settings: dict[str, Any] = {"seed": 3, "dtype": torch.float64, "tile": None}
    if isinstance(path, paths.MeanReverting):
        settings["mean"] = torch.zeros(1, 1, dtype=torch.float64)
    x = steering.run(plan, gaussian(path), (500, 1), x_init=steering.Noised(c), **settings)
    first, last = plan.nodes[0], plan.nodes[-1]
    start = first.alpha * c + first.sigma * Noise(3, range(500)).normal(START, Draw.SOLVER, (1,))
    ratio = math.hypot(last.alpha * STD, last.sigma) / math.hypot(first.alpha * STD, first.sigma)
    wanted = last.alpha * MEAN + ratio * (start - first.alpha * MEAN)
    torch.testing.assert_close(x, wanted, rtol=0, atol=2e-3 * max(1.0, last.alpha))


def test_a_strength_of_one_takes_all_steps_from_noised_data():
    path = paths.vp_cosine()
    plan = steering.plan("ddim", path=path, steps=5, prediction="x0")
    assert steering.plan("ddim", path=path, steps=5, prediction="x0", strength=1.0) is plan
    data, states = torch.full((6, 1), 3.0), []

    def network(x: Tensor, t: Tensor) -> Tensor:
        states.append(x)
        return gaussian(path)(x, t)

    for x_init in (steering.Noised(data), None):
        steering.run(plan, network, (6, 1), x_init=x_init, tile=None)
    first = plan.nodes[0]
    torch.testing.assert_close(states[0] - states[5], first.alpha * data)


def test_rows_of_a_larger_run_are_the_smaller_run():
    path, data = paths.vp_cosine(), torch.randn(20, 1, generator=torch.Generator().manual_seed(1))
    plan = steering.plan("dpmpp_2m", path=path, steps=20, prediction="x0", strength=0.3)
    whole = steering.run(plan, gaussian(path), (20, 1), seed=4, x_init=steering.Noised(data))
    assert torch.equal(steering.run(plan, gaussian(path), (20, 1), seed=4, x_init=steering.Noised(data)), whole)
    assert torch.equal(steering.run(plan, gaussian(path), (7, 1), seed=4, x_init=steering.Noised(data[:7])), whole[:7])
    assert not torch.equal(steering.run(plan, gaussian(path), (20, 1), seed=5, x_init=steering.Noised(data)), whole)


def test_methods_start_each_chain_from_noise_of_its_own():
    """Of chains that start from one state without noise on the way, the best would be any."""
    path, mixture = paths.vp_cosine(), GaussianMixture.random(dimension=2, components=3, seed=0)
    network, data = mixture.network(path), mixture.sample(4, 0).float()
    settings: dict[str, Any] = {"seed": 1, "x_init": steering.Noised(data), "report": True}
    plan = steering.plan("dpmpp_2m", path=path, steps=10, prediction="x0", strength=0.6)
    plain, report = steering.run(plan, network, (4, 2), **settings)
    best, more = steering.run(plan, network, (4, 2), steer=steering.baselines.BestOf(lambda x: x[:, 0], 8), **settings)
    assert (report.network_rows, more.network_rows) == (4 * 6, 4 * 6 * 8)
    assert float((best[:, 0] - plain[:, 0]).mean()) > 0.1
    noisy = steering.plan("sde_dpmpp_2m", path=path, steps=10, prediction="x0", strength=0.6)
    for steer in (
        steering.Doob(lambda x: x[:, 0], posterior=steering.posteriors.gaussian()),
        steering.Smc(lambda x: x[:, 0], population=8, keep=1),
        steering.baselines.Svdd(lambda x: x[:, 0]),
    ):
        plain, _ = steering.run(noisy, network, (4, 2), **settings)
        moved, _ = steering.run(noisy, network, (4, 2), steer=steer, **settings)
        assert float((moved[:, 0] - plain[:, 0]).mean()) > 0, steer


def test_a_searched_program_keeps_its_last_steps():
    program = Program((0.0, 0.2, 0.5, 0.8, 1.0), tuple(Choice("data", order) for order in (1, 2, 3, 2)))
    path = paths.vp_cosine()
    given: dict[str, Any] = {"path": path, "steps": 4, "prediction": "x0", "program": program}
    whole, plan = (steering.plan("searched", **given), steering.plan("searched", strength=0.5, **given))
    assert [node.t for node in plan.nodes] == [node.t for node in whole.nodes[2:]]
    assert program.last(2).choices == program.choices[2:]
    assert program.last(2).fractions == pytest.approx((0.0, 0.6, 1.0))
    assert program.last(4) == program


def test_a_start_time_is_where_the_grid_begins():
    path = paths.rectified_flow()
    plan = steering.plan("ddim", path=path, steps=6, prediction="x0", start_t=0.5, grid="uniform")
    assert [node.t for node in plan.nodes] == pytest.approx([0.5 + i * (path.t_min - 0.5) / 6 for i in range(7)])
    assert (plan.steps, plan.path) == (6, path)
    whole = steering.plan("ddim", path=path, steps=6, prediction="x0", start_t=path.t_max)
    assert whole.nodes == steering.plan("ddim", path=path, steps=6, prediction="x0").nodes
    state = torch.randn(50, 1, dtype=torch.float64)
    x = steering.run(
        steering.plan("dpmpp_2m", path=path, steps=200, prediction="x0", start_t=0.5), gaussian(path), (50, 1),
        x_init=state, dtype=torch.float64,
    )  # fmt: skip
    last = plan.nodes[-1]
    ratio = math.hypot(last.alpha * STD, last.sigma) / math.hypot(0.5 * STD, 0.5)
    torch.testing.assert_close(x, last.alpha * MEAN + ratio * (state - 0.5 * MEAN), rtol=0, atol=1e-3)


DIRECT = [name for name, each in steering.solvers.items() if each.direct]
BETAS = paths.vp_betas(steps=10, beta_start=0.01, beta_end=0.4)


@pytest.mark.parametrize("end", [None, "denoise"])
@pytest.mark.parametrize("name", ["rectified_flow", "[0, 1]", "vp_betas", "whole times", "edm", "zero terminal"])
@pytest.mark.parametrize("solver", [name for name in steering.solvers if name != "searched"])
def test_the_first_node_is_the_start_time(solver: str, name: str, end: Any):
    over: dict[str, Path] = {
        "rectified_flow": paths.rectified_flow(),
        "[0, 1]": paths.rectified_flow(t_min=0.0, t_max=1.0),
        "vp_betas": paths.vp_betas(),
        "whole times": BETAS.asked_at("N*t-1"),
        "edm": paths.edm(),
        "zero terminal": paths.vp_betas(zero_terminal_snr=True).between(0.001, 1.0),
    }
    path = over[name]
    for t in (0.55, path.t_max):
        for steps in (1, 4):
            plan = steering.plan(solver, path=path, steps=steps, prediction="x0", start_t=t, end=end)
            assert plan.nodes[0].t == t
            assert [node.t for node in plan.nodes[:-1]] == sorted({node.t for node in plan.nodes[:-1]}, reverse=True)
            if plan.end == "t_min":
                assert plan.nodes[-1].t == path.t_min
            # a direct solver goes from the first state to where it ends; only a state without data is led on first
            assert solver not in DIRECT or plan.opening or not plan.within or plan.within[0] == plan.nodes[0]


@pytest.mark.parametrize("solver", DIRECT)
@pytest.mark.parametrize("path", [paths.vp_betas(), paths.rectified_flow(t_min=0.0)], ids=["vp_betas", "flow"])
def test_direct_solvers_go_from_the_state_to_the_data(solver: str, path: Path):
    """Their step to D is none of their grid's, so a state at the start time is not taken for a later one."""
    plan = steering.plan(solver, path=path, steps=4, prediction="x0", start_t=0.5, end="denoise")
    first = plan.nodes[0]
    state = first.alpha * MEAN + math.hypot(first.alpha * STD, first.sigma) * torch.randn(
        4000, 1, generator=torch.Generator().manual_seed(0)
    )
    x = steering.run(plan, gaussian(path), (4000, 1), x_init=state, tile=None)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.05)


@pytest.mark.parametrize("end", ["t_min", "denoise"])
@pytest.mark.parametrize("solver", [*DIRECT, "ddim", "heun"])
def test_a_strength_counts_the_steps_of_the_grid(solver: str, end: Any):
    """Number n - k of n + 1 nodes, whether the solver is a table or not, and whatever it ends in."""
    for path in (paths.vp_betas(), paths.rectified_flow(), paths.rectified_flow(t_min=0.0, t_max=1.0)):
        given: dict[str, Any] = {"path": path, "steps": 10, "prediction": "x0", "end": end, "grid": "uniform"}
        plan, whole = steering.plan(solver, strength=0.5, **given), steering.plan(solver, **given)
        grid = whole.nodes[1:] if solver in DIRECT and path.begins_in_noise else whole.nodes
        assert plan.nodes == grid[5:]


def test_a_start_time_between_whole_times_is_kept():
    """The nodes after it are whole times, one each; as many as there are below it may be asked for."""
    path = BETAS.asked_at("N*t-1")
    for steps, start_t, wanted in (
        (4, 0.59, [0.59, 0.5, 0.3, 0.2, 0.1]),
        (5, 0.55, [0.55, 0.5, 0.4, 0.3, 0.2, 0.1]),
        (5, 0.6, [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        (2, 0.21, [0.21, 0.2, 0.1]),
    ):
        plan = steering.plan("ddim", path=path, steps=steps, prediction="x0", start_t=start_t, grid="uniform")
        assert [node.t for node in plan.nodes] == pytest.approx(wanted, abs=1e-9)
        assert plan.nodes[0].t == start_t
    state = torch.full((1, 1), 0.3, dtype=torch.float64)
    plan = steering.plan("ddim", path=path, steps=5, prediction="x0", start_t=0.55, end="denoise")
    x = steering.run(plan, gaussian(path), (1, 1), x_init=state, dtype=torch.float64)
    free = steering.plan("ddim", path=BETAS, steps=200, prediction="x0", start_t=0.55, end="denoise")
    close = steering.run(free, gaussian(BETAS), (1, 1), x_init=state, dtype=torch.float64)
    assert float(x) == pytest.approx(float(close), abs=0.1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"strength": 0.0}, "strength: expected a number above 0 and up to 1, got 0.0"),
        ({"strength": -0.5}, "strength: expected a number above 0 and up to 1, got -0.5"),
        ({"strength": 1.5}, "strength: expected a number above 0 and up to 1, got 1.5"),
        ({"strength": math.nan}, "strength: expected a number above 0 and up to 1, got nan"),
        ({"strength": 0.04}, "strength: expected at least 1 / steps, 0.05, which leaves one step, got 0.04"),
        ({"strength": 0.5, "reverse": True}, "strength: expected none beside reverse, got both"),
        ({"start_t": 0.5, "reverse": True}, "start_t: expected none beside reverse, got both"),
        ({"start_t": 0.5, "grid": [0.5, 0.3]}, "start_t: expected none beside an explicit grid, got both"),
        ({"start_t": 1.5}, "start_t: expected a time above 0.001 and up to 0.999, got 1.5"),
        ({"start_t": 0.001}, "start_t: expected a time above 0.001 and up to 0.999, got 0.001"),
        ({"start_t": 0.001 + 1e-12}, "start_t: expected a time farther from 0.001, with room for 20 steps, got 0.001"),
        ({"strength": 0.5, "steps": 0}, "steps: expected an integer in 1..1000, got 0"),
        ({"strength": 0.5, "solver": "ddin"}, "unknown solver 'ddin'"),
    ],
)
def test_what_is_refused(given: dict[str, Any], expected: str):
    settings: dict[str, Any] = {"solver": "ddim", "path": paths.rectified_flow(), "steps": 20}
    with pytest.raises(PlanError, match=expected):
        steering.plan(prediction="x0", **{**settings, **given})


def test_data_are_not_noised_for_a_plan_in_reverse():
    plan = steering.plan("ddim", path=paths.vp_cosine(), steps=4, prediction="x0", reverse=True)
    with pytest.raises(PlanError, match="x_init: expected data without noise for a plan in reverse"):
        steering.run(plan, gaussian(plan.path), (2, 1), x_init=steering.Noised(torch.zeros(2, 1)))
    with pytest.raises(ValueError, match=r"x_init: expected shape \[2, 1\], got \[3, 1\]"):
        steering.run(plan, gaussian(plan.path), (2, 1), x_init=steering.Noised(torch.zeros(3, 1)))


@pytest.mark.parametrize(("strength", "left"), [(0.5, 10), (0.75, 15), (0.1, 2), (1.0, 20)])
def test_an_image_to_image_run_is_that_of_diffusers(strength: float, left: int):
    """The same nodes, noise and network: their pipelines' get_timesteps, add_noise and step, and a grid and a strength
    here."""
    diffusers = importlib.import_module("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, set_alpha_to_one=False, steps_offset=1,
        clip_sample=False,
    )  # fmt: skip
    scheduler.set_timesteps(20)
    begin = max(20 - min(int(20 * strength), 20), 0)
    timesteps = scheduler.timesteps[begin:]
    assert len(timesteps) == left
    alpha_bars = scheduler.alphas_cumprod.to(torch.float64)
    path = paths.vp_discrete(alpha_bars=alpha_bars.tolist())

    def eps(x: Tensor, alpha_bar: Tensor) -> Tensor:
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return sigma * (x - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2)

    image, noise = torch.full((5, 1), 2.0, dtype=torch.float64), Noise(7, range(5)).normal(START, Draw.SOLVER, (1,))
    theirs = scheduler.add_noise(image, noise, timesteps[:1])
    for timestep in timesteps:
        theirs = scheduler.step(eps(theirs, alpha_bars[timestep]), timestep, theirs).prev_sample
    nodes = [(int(step) + 1) / 1000 for step in (*scheduler.timesteps, 0)]
    plan = steering.plan("ddim", path=path, steps=20, prediction="eps", grid=nodes, strength=strength)
    mine = steering.run(
        plan, lambda x, t: eps(x, path.alpha(t)[:, None] ** 2), (5, 1), seed=7, x_init=steering.Noised(image),
        dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(mine, theirs.to(torch.float64), rtol=0, atol=1e-6)
