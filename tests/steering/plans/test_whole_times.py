"""Networks that take whole times only: where they are asked, and what D is made of."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.paths import TIME_INPUTS, Path, reschedule, whole_grid, whole_times

MEAN, SPREAD = 3.0, 0.5
COARSE = paths.vp_discrete(alpha_bars=(paths.vp_linear().alpha(torch.arange(1, 21) / 20) ** 2).tolist())
WHOLE: dict[str, Path] = {
    "20 steps": COARSE.asked_at("N*t-1"),
    "Stable Diffusion's betas": paths.vp_betas().asked_at("N*t-1"),
    "vp_linear, 1000*t": paths.vp_linear().asked_at("1000*t"),
    "edm, whole levels": paths.edm(0.5, 80).asked_at("sigma"),
}
TABLES = [name for name, each in steering.solvers.items() if each.updates]


def counted(path: Path, prediction: str = "eps", whole: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
    """What a graph with integer times says of N(MEAN, SPREAD^2): it takes the nearest whole number, and its level.

    Without `whole`, what one that takes any time says.
    """
    asked = TIME_INPUTS[path.whole]
    free = replace(path, whole="")
    times = torch.linspace(path.t_min, path.t_max, 999_001, dtype=torch.float64)
    fed = asked(free, times)

    def network(x: Tensor, t: Tensor) -> Tensor:
        number = torch.round(asked(free, t.to(torch.float64)))
        # the time of that whole number
        at = times[torch.searchsorted(fed, number - 1e-6).clamp(max=len(times) - 1)] if whole else t
        alpha, sigma = (f(at)[:, None].to(x.dtype) for f in (path.alpha, path.sigma))
        denoised = MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * MEAN)
        eps = (x - alpha * denoised) / sigma
        return {"eps": eps, "x0": denoised, "v": alpha * eps - sigma * denoised}[prediction]

    return network


def drawn(plan: steering.Plan, network: Callable[..., Tensor], **other: Any) -> Tensor:
    """Started at the data's mean, so that all that is off is the plan's."""
    mean = torch.full((2,), MEAN)
    return steering.run(plan, network, (400, 2), seed=1, dtype=torch.float64, tile=None, start_mean=mean, **other)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_times_are_where_the_time_input_is_whole(name: str):
    path = WHOLE[name]
    t = torch.linspace(path.t_min, path.t_max, 57, dtype=torch.float64)
    at, fed = whole_times(path, t), TIME_INPUTS[path.whole]
    numbers = fed(path, at)
    torch.testing.assert_close(numbers, torch.round(numbers), rtol=0, atol=1e-6)
    assert float((fed(path, t) - numbers).abs().max()) <= 0.5 + 1e-6 or name.startswith("edm")
    assert path.t_min <= float(at.min())
    assert float(at.max()) <= path.t_max
    assert torch.equal(whole_times(path, at), at)  # they stay where they are
    assert torch.equal(torch.cat([whole_times(path, each[None]) for each in t]), at)  # one by one, bit for bit


def test_without_whole_times_nothing_moves():
    t = torch.rand(9, dtype=torch.float64)
    assert whole_times(paths.vp_betas(), t) is t
    assert whole_grid(paths.vp_betas(), t) is t


def test_a_time_input_that_is_no_straight_line_is_inverted():
    path = paths.ve(0.6, 40).asked_at("sigma")
    found = path.sigma(whole_times(path, torch.linspace(0, 1, 9, dtype=torch.float64)))
    torch.testing.assert_close(found, torch.round(found), rtol=0, atol=1e-9)
    assert (float(found.min()), float(found.max())) == pytest.approx((1, 40))


def test_nodes_of_a_grid_have_a_whole_time_each():
    path = WHOLE["20 steps"]
    plan = steering.plan("dpmpp_2m", path=path, steps=15, prediction="eps")
    numbers = [20 * node.t - 1 for node in plan.nodes]
    assert numbers == pytest.approx([round(number) for number in numbers], abs=1e-9)
    assert (numbers[0], numbers[-1]) == pytest.approx((19, 0))
    assert len({round(number) for number in numbers}) == 16
    most = steering.plan("dpmpp_2m", path=path, steps=19, prediction="eps")
    assert [round(20 * node.t - 1) for node in most.nodes] == list(range(19, -1, -1))


def test_more_nodes_than_whole_times_stay_where_they_are():
    path = WHOLE["20 steps"]
    plan = steering.plan("dpmpp_2m", path=path, steps=100, prediction="eps")
    free = steering.plan("dpmpp_2m", path=COARSE, steps=100, prediction="eps")
    assert [node.t for node in plan.nodes] == [node.t for node in free.nodes]
    assert float(drawn(plan, counted(path)).mean()) == pytest.approx(MEAN, abs=0.06)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("solver", steering.solvers)
def test_every_solver_keeps_the_mean_of_the_data(solver: str, name: str):
    """At 5 steps it was 2.77 of 3 where D was made at another time than the network was asked at.

    The mean is to be that of the same steps with a network that takes any time: some solvers miss it in few steps.
    """
    path = WHOLE[name]
    for steps in (5, 13):
        plan = steering.plan(solver, path=path, steps=steps, prediction="eps")
        free = steering.plan(
            solver, path=replace(path, whole=""), steps=steps, prediction="eps", grid=[node.t for node in plan.nodes]
        )
        x, y = drawn(plan, counted(path)), drawn(free, counted(path, whole=False))
        assert float(x.mean()) == pytest.approx(float(y.mean()), abs=0.04 * max(1.0, float(y.std()) / SPREAD)), steps
        if solver in ("dpmpp_2m", "ddim", "unipc_2", "heun"):
            assert float(x.mean()) == pytest.approx(MEAN, abs=0.06)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc_2", "deis_tab3", "trig_adams_2", "heun", "euler"])
def test_on_whole_nodes_a_network_of_whole_times_is_as_good_as_one_of_all(solver: str, prediction: str):
    path = WHOLE["20 steps"]
    plan = steering.plan(solver, path=path, steps=8, prediction=prediction)
    free = steering.plan(solver, path=COARSE, steps=8, prediction=prediction, grid=[node.t for node in plan.nodes])
    x = steering.run(plan, counted(path, prediction), (20, 2), dtype=torch.float64)
    assert [stage.update for stage in plan.stages] == [stage.update for stage in free.stages]
    y = steering.run(free, counted(path, prediction), (20, 2), dtype=torch.float64)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-9)


def test_a_network_of_whole_times_can_be_rescheduled():
    trained = WHOLE["20 steps"]
    path = reschedule(trained, paths.edm())
    for solver in ("dpmpp_2m", "dpmpp_3s", "ddim", "rk45"):
        plan = steering.plan(solver, path=path, trained=trained, steps=12, prediction="eps")
        assert float(drawn(plan, counted(trained)).mean()) == pytest.approx(MEAN, abs=0.06)


def test_likelihoods_and_inversion_ask_at_whole_times():
    path = WHOLE["20 steps"]
    network, asked = counted(path), []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return network(x, t)

    plan = steering.plan("ddim", path=path, steps=19, prediction="eps", grid="uniform")
    problem = steering.Problem(plan=plan, event=(2,), dtype=torch.float64)
    x = MEAN + SPREAD * torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    judged = steering.log_likelihood(problem, x, steering.Noise(0, range(40)), exact=True)
    found = steering.solve(judged, watched, tile=None).log_density
    exact = torch.distributions.Normal(MEAN, SPREAD).log_prob(x).sum(dim=1)
    assert float((found - exact).abs().mean()) < 0.2  # between whole times D has the spread of the nearest
    trip = steering.solve(steering.round_trip(problem, x), watched, tile=None)
    assert float((trip.noise.mean(dim=0) - float(path.alpha(1)) * MEAN).abs().max()) < 0.5
    numbers = 20 * torch.cat(asked).to(torch.float64) - 1
    torch.testing.assert_close(numbers, torch.round(numbers), rtol=0, atol=1e-6)
