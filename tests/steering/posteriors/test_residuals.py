"""Draws of a law and the residual posterior: what they hold, and how close it comes on laws that are known."""

import math

import pytest
import torch
from torch import Tensor

import steering
from steering import posteriors
from steering.posteriors import Draws, Residuals
from steering.problems import GaussianMixture
from steering.sampling.run import Network
from steering.sampling.sampler import Problem

PATH = steering.paths.vp_cosine()
PLAN = steering.plan("dpmpp_2m", path=PATH, steps=20, prediction="x0")
TWO = GaussianMixture(
    torch.tensor([0.5, 0.5], dtype=torch.float64),
    torch.tensor([[-2.0, 0.0], [2.0, 0.5]], dtype=torch.float64),
    0.3 * torch.eye(2, dtype=torch.float64).repeat(2, 1, 1),
)


def gaussian(spread: float) -> Network:
    """The denoiser of N(c, spread^2 I), c the condition's number."""

    def network(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        alpha, sigma = (f(t.to(torch.float64)).reshape(-1, *(1,) * (x.ndim - 1)) for f in (PATH.alpha, PATH.sigma))
        c = c.reshape(-1, *(1,) * (x.ndim - 1))
        return (c + alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * (x - alpha * c)).to(x.dtype)

    return network


def law(event: tuple[int, ...], guidance: float = 1.0, condition: float = 1.0) -> Problem:
    return Problem(
        plan=PLAN, event=event, condition={"c": torch.full((1, 1), condition)}, guidance=guidance,
        null={"c": torch.zeros(1, 1)},
    )  # fmt: skip


def recorded(spread: float, event: tuple[int, ...] = (1,), count: int = 256, **other: float) -> Draws:
    return steering.solve(posteriors.record(law(event, **other), count), gaussian(spread))


# The draws.


def test_draws_are_a_pure_function_of_the_law_and_cost_a_row_a_stage():
    seen = []

    def network(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        seen.append(len(x))
        return gaussian(0.5)(x, t, c)

    one = steering.solve(posteriors.record(law((3,)), 40), network, tile=None)
    two = recorded(0.5, (3,), 40)
    assert sum(seen) == 20 * 40
    for name in ("log_snr", "rms", "residuals", "x0"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert bool((one.log_snr.diff() > 0).all())
    other = recorded(0.5, (3,), 40, condition=2.0)
    assert float((other.x0 - two.x0).mean()) == pytest.approx(1, abs=0.01)


def test_the_measured_variance_is_that_of_the_closed_form():
    draws = recorded(1.5, (4,), 512)
    for t in (0.9, 0.7, 0.52, 0.3, 0.11):
        ratio = float(PATH.sigma(t) / PATH.alpha(t)) ** 2
        assert draws.variance(PATH, t) == pytest.approx(2.25 * ratio / (2.25 + ratio), rel=0.12)


def test_large_events_keep_fewer_levels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steering.posteriors.draws.MOST_BYTES", 2 * 8 * 12 * 5)
    draws = recorded(0.5, (3, 2, 2), 8)
    assert draws.residuals.shape == (4, 8, 12)
    assert draws.residuals.dtype == torch.float16
    assert draws.bytes == 2 * 4 * 8 * 12 + 4 * 8 * 12 + 16 * 5


def test_too_few_levels_are_refused():
    with pytest.raises(ValueError, match=r"three levels or more, got \[2, 4, 1\] for 4 draws at 2 levels"):
        Draws.of(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.zeros(2, 4, 1), torch.zeros(4, 1))


# The posterior.


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("vector", [True, False])
def test_the_tilted_law_of_a_condition_has_its_mean(vector: bool, guidance: float):
    spread, event = 0.5, (4,) if vector else (1, 4, 4)
    draws, size = recorded(spread, event, guidance=guidance), math.prod(event)
    # a Gaussian's residuals are its posterior as they are
    local = posteriors.fitting(draws) if vector else Residuals(draws, (1.0,) * len(draws.residuals))
    doob = steering.Doob(lambda x: 2 * x.flatten(1).sum(dim=1) / size**0.5, posterior=local)
    null = {} if guidance == 1 else {"c": torch.zeros(1, 1)}
    x = steering.run(
        PLAN, gaussian(spread), (1024, *event), 1, doob, {"c": torch.ones(1, 1)}, guidance, null=null, tile=None
    ).flatten(1)
    # equal variances: the guided law is N(mu_0 + w (mu_c - mu_0), spread^2)
    assert float(x.mean()) - guidance == pytest.approx(2 * spread**2 / size**0.5, rel=0.1)
    assert float(x.std(dim=0).mean()) == pytest.approx(spread, rel=0.06)


def test_a_level_between_two_has_what_lies_between():
    draws = recorded(1.0, (2,), 200)
    whole = posteriors.residuals(draws)
    thin = posteriors.residuals(Draws(draws.log_snr[1::2], draws.rms[1::2], draws.residuals[1::2], draws.x0))
    for i in (5, 9, 13):
        t = float(PATH.time_of_log_snr(draws.log_snr[i]))
        assert thin.calibration.variance(PATH, t) == pytest.approx(whole.calibration.variance(PATH, t), rel=0.25)


def test_a_flat_reward_leaves_every_bit():
    draws = recorded(0.5, (1, 4, 4), 30)
    doob = steering.Doob(lambda x: torch.zeros(len(x)), posterior=posteriors.residuals(draws))
    plain, steered = (
        steering.run(PLAN, gaussian(0.5), (5, 1, 4, 4), 3, each, {"c": torch.ones(1, 1)}) for each in (None, doob)
    )
    assert torch.equal(steered, plain)


@pytest.mark.parametrize("steps", [7, 20])
def test_a_sample_does_not_depend_on_its_neighbours(steps: int):
    local = posteriors.residuals(recorded(1.0, (1, 40, 40), 64))
    assert isinstance(local, Residuals)
    plan = steering.plan("sde_dpmpp_2m", path=PATH, steps=steps, prediction="x0")

    def draw(n: int) -> Tensor:
        doob = steering.Doob(lambda x: x.flatten(1).mean(dim=1), 0.01, particles=8, posterior=local)
        return steering.run(plan, gaussian(1.0), (n, 1, 40, 40), 2, doob, {"c": torch.ones(1, 1)})

    large = draw(19)
    assert float(large.mean()) > 1.01
    for n in (1, 6):
        assert torch.equal(draw(n), large[:n])


def test_roll_outs_ask_for_no_row_twice():
    rows = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        rows.append(torch.cat([x, t[:, None]], dim=1))
        return TWO.denoised(x, PATH.alpha(t.double()), PATH.sigma(t.double()))

    plan = steering.plan("dpmpp_2m", path=PATH, steps=4, prediction="x0")
    doob = steering.Doob(lambda x: x[:, 0], posterior=posteriors.rollout(4), particles=4)
    steering.run(plan, network, (6, 2), 0, doob, tile=None)
    asked = torch.cat(rows)
    assert len(asked) == len(asked.unique(dim=0)) == 6 * 4 * (1 + 4 * 3)
    assert math.prod(asked.shape) == 3 * len(asked)
