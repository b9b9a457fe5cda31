"""The times of the published presets, and of others, on any path."""

import math

import pytest
import torch

from steering import PlanError, paths
from steering.distillation import PRESETS, Ramp, Schedule, Settings, Times, prior, schedule, times_of
from steering.distillation.levels import levels
from steering.distillation.schedules import step_of
from steering.sampling.sampler import Problem

SD = paths.vp_betas()
VIEWS = range(200)


def test_the_coarse_preset_falls_with_the_square_root() -> None:
    """700 -> 100 in 3,000 iterations, and t1 100 to 299 steps above."""
    coarse = schedule("coarse")
    for iteration, wanted in ((0, 700), (750, 400), (1000, 353), (3000, 100), (9000, 100)):
        first, second = coarse.values(iteration, 0, VIEWS)
        assert second.tolist() == [wanted] * len(VIEWS)
        apart = first - second
        assert float(apart.min()) >= 100
        assert float(apart.max()) <= 299
        assert len(apart.unique()) > 50
        assert bool((apart == apart.round()).all())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_stay_between_their_ends(name: str) -> None:
    low, high = {"coarse": (100, 980), "coarse_long": (100, 980), "refine": (20, 500)}.get(name, (20, 980))
    for iteration in (0, 10, 2000, 20000):
        first, second = schedule(name).values(iteration, 3, VIEWS)
        assert low <= float(second.min())
        assert float(second.max()) <= high - 100
        assert float(first.max()) <= high
        assert bool((first > second).all())


def test_presets_have_the_scale_of_the_other_convention() -> None:
    """Its w multiplies what is added to the conditional estimate; ours is 1 more."""
    assert PRESETS["coarse"].guidance.at(0) == 101
    assert PRESETS["coarse"].guidance.at(3000) == 51
    assert PRESETS["coarse"].clip.at(1500) == 5
    assert PRESETS["refine"].weighting == "sds"


def test_on_stable_diffusions_own_path_steps_are_its_steps() -> None:
    times = schedule("coarse").times(SD, 750, 0, VIEWS)
    first, second = schedule("coarse").values(750, 0, VIEWS)
    assert torch.allclose(times.t1, (first + 1) / 1000, atol=1e-9)
    assert times.t2 is not None
    assert torch.allclose(times.t2, (second + 1) / 1000, atol=1e-9)


@pytest.mark.parametrize(
    "path", [paths.vp_cosine(), paths.ve(sigma_min=0.01, sigma_max=50), paths.edm(), paths.rectified_flow()]
)
def test_on_another_path_the_noise_level_is_the_same(path: paths.Path) -> None:
    """And with data of another standard deviation the level goes with it."""
    at = {}
    for where in (SD, path):
        times = schedule("coarse", scale=0.5).times(where, 750, 0, VIEWS)
        at[where] = torch.exp(-where.log_snr(torch.as_tensor(times.t1)))
    first, _ = schedule("coarse").values(750, 0, VIEWS)
    wanted = 0.5 * torch.exp(-SD.log_snr((first + 1) / 1000))
    assert torch.allclose(at[path], wanted, rtol=1e-6)
    assert torch.allclose(at[SD], wanted, rtol=1e-6)
    assert torch.allclose(step_of(wanted, 0.5), first, atol=1e-3)


def test_times_are_a_function_of_iteration_seed_and_view() -> None:
    one = schedule("coarse").times(SD, 5, 1, [0, 1, 2, 7])
    assert torch.equal(one.t1[[3, 1]], schedule("coarse").times(SD, 5, 1, [7, 1]).t1)
    assert not torch.equal(one.t1, schedule("coarse").times(SD, 6, 1, [0, 1, 2, 7]).t1)
    assert not torch.equal(one.t1, schedule("coarse").times(SD, 5, 2, [0, 1, 2, 7]).t1)


def test_whole_times_are_kept_whole() -> None:
    """On a network that counts ten steps only, and two times of one step are refused."""
    path = paths.vp_betas(steps=10, beta_start=0.05, beta_end=0.5).asked_at("N*t-1")
    problem = Problem(plan=prior(path, "eps"), event=(2,))
    given = Settings(mode="cds", times=Times(torch.tensor(0.72), torch.tensor(0.38)))
    first, second = times_of(problem, given, 0, 0, [0])
    assert (round(float(first.t), 9), round(float(second.t), 9)) == (0.7, 0.4)
    with pytest.raises(PlanError, match="whole times"):
        times_of(problem, Settings(mode="cds", times=Times(torch.tensor(0.72), torch.tensor(0.69))), 0, 0, [0])


def test_other_units_and_shapes() -> None:
    drawn = Schedule(shape="uniform", c0=20, c1=860, smin=20, smax=980)
    _, second = drawn.values(4, 0, range(4000))
    assert 20 <= float(second.min()) < 30
    assert 850 < float(second.max()) <= 860
    assert abs(float(second.mean()) - 440) < 12
    rho = Schedule(unit="rho", c0=4.0, c1=0.05, gap=0.05, perturb=0.0, smin=0.05, smax=5.0, i_end=100)
    path = paths.edm(sigma_min=0.002, sigma_max=80)
    times = rho.times(path, 25, 0, [0])
    assert math.isclose(float(path.sigma(times.t2[0])), 4 - 3.95 * 0.5, rel_tol=1e-9)  # type: ignore[index]
    assert math.isclose(float(path.sigma(times.t1[0])), 4 - 3.95 * 0.5 + 0.05, rel_tol=1e-9)
    straight = Schedule(unit="t", shape="linear", c0=0.8, c1=0.2, gap=0.1, perturb=0.0, smin=0.1, smax=0.95, i_end=10)
    assert math.isclose(float(straight.times(paths.vp_cosine(), 5, 0, [0]).t1[0]), 0.6, rel_tol=1e-12)


def test_levels_beyond_the_model() -> None:
    """An error where they were asked for; presets move to the model's ends."""
    narrow = paths.edm(sigma_min=0.1, sigma_max=3.0)
    with pytest.raises(PlanError, match=r"noise levels rho in 0.1..3, where the model is known, got"):
        Schedule().times(narrow, 0, 0, [0])
    times = schedule("coarse").times(narrow, 0, 0, [0, 1])
    assert float(times.t1.max()) <= 3.0
    with pytest.raises(PlanError, match=r"t1: expected a time in 0.1..3, where the model is known, got 3.5 in view 1"):
        levels(prior(narrow, "x0"), Times(torch.tensor([2.0, 3.5])), 2, two=False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"unit": "sigma"}, "unknown unit"),
        ({"shape": "cosine"}, "unknown shape"),
        ({"c0": math.inf}, "c0: expected a finite number"),
        ({"gap": 0}, "gap: expected"),
        ({"smax": 1000}, "smax: expected a step"),
        ({"smin": 900, "smax": 950}, "smax: expected at least smin"),
        ({"i_end": 0}, "i_end: expected"),
        ({"scale": 0.0}, "scale: expected"),
    ],
)
def test_schedules_that_are_none(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        Schedule(**wrong)  # type: ignore[arg-type]


def test_ramps() -> None:
    assert Ramp(100, 50, 10).at(5) == 75
    assert Ramp(100, 50, 10, "sqrt").at(40) == 50
    with pytest.raises(PlanError):
        Ramp(1, 2, 10, "cosine")  # type: ignore[arg-type]
