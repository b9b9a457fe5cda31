"""Selection: when it is chosen, what its candidates lead to, and the law it draws from."""

import pytest
import torch
from torch import Tensor

import steering
from steering import Doob, posteriors
from steering.methods.select import Kernel, select
from steering.numerics.noise import Noise
from steering.paths import Path
from steering.plans.plan import Plan
from steering.posteriors.calibration import Uncalibrated
from tests.steering.conftest import PATHS

VARIANCE = 0.5
LOCAL = posteriors.Gaussian(Uncalibrated(VARIANCE))  # exact for data N(0, VARIANCE I)


def compiled(solver: str, path: Path, eta: float = 1.0, steps: int = 20) -> Plan:
    return steering.plan(solver, path=path, steps=steps, prediction="x0", eta=eta)


# When: the noise that the mean's weights bring into a step, against the step's own.


def test_drowned_is_the_means_error_over_the_steps_noise():
    deviations = torch.randn(50, 16, 256, generator=torch.Generator().manual_seed(0))
    difference = torch.full((50, 16), 1 / 16)
    # weights +-1/16 on 16 deviations of squared length 256: an error of squared length 16
    quiet, loud = Kernel(0.0, 1.0, weight=1.0, noise=0.1), Kernel(0.0, 1.0, weight=1.0, noise=0.15)
    assert quiet.drowned(difference, deviations).all()
    assert not loud.drowned(difference, deviations).any()
    assert not loud.drowned(difference, deviations * 0).any()
    assert Kernel(0.0, 1.0, weight=2.0, noise=0.15).drowned(difference, deviations).all()


# What a candidate leads to: on a Gaussian D(x) = k x, so the step's noise S z moves D at the next node by k S z.


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_gain_is_the_steps_noise_as_the_next_denoiser_sees_it(solver: str, path: Path):
    plan = compiled(solver, path)
    for stage in plan.stages:
        kernel = Kernel.of(stage, plan, LOCAL)
        assert kernel is not None
        at, to = stage.update.at, stage.update.to
        here = Uncalibrated(VARIANCE).variance(path, at.t)
        slope = to.alpha * VARIANCE / (to.alpha**2 * VARIANCE + to.sigma**2)
        assert kernel.gain == pytest.approx(min(slope * stage.update.C[0][0], here**0.5), rel=1e-9)
        # and together with what is left open it makes up the variance of x_0 here
        assert kernel.gain**2 + kernel.remainder**2 == pytest.approx(here, rel=1e-9)


def test_only_time_reversed_steps_have_a_kernel():
    path = PATHS["vp_cosine"]
    for plan, local in (
        (compiled("ddim", path, eta=0.5), LOCAL),
        (compiled("ddim", path, eta=0.0), LOCAL),
        (compiled("heun", path, eta=0.0), LOCAL),
        (compiled("ddim", path), posteriors.gaussian()),
    ):
        assert all(Kernel.of(stage, plan, local) is None for stage in plan.stages)


def test_candidates_have_the_posterior_variance():
    plan = compiled("ddim", PATHS["vp_cosine"])
    stage = plan.stages[10]
    kernel, noise = Kernel.of(stage, plan, LOCAL), Noise(0, range(40))
    assert kernel is not None
    z = noise.normal(stage.index, 0, (64, 8))
    deviations = kernel.deviations(z, stage, noise)
    here = Uncalibrated(VARIANCE).variance(plan.path, stage.t)
    assert float(deviations.var()) == pytest.approx(here, rel=0.05)
    assert float((deviations * z).mean()) == pytest.approx(kernel.gain, abs=5 * here**0.5 / 143)


# Which: +z_p or -z_p with the probabilities of their weights.


def test_the_candidate_with_all_the_weight_is_taken_with_its_sign():
    z = torch.randn(8, 4, 3)
    found = select(torch.eye(8), z, torch.rand(8, 1))
    assert torch.equal(found[:4], z[range(4), range(4)])
    assert torch.equal(found[4:], -z[range(4, 8), range(4)])


def test_candidates_are_taken_as_often_as_their_weights_say():
    weights = torch.tensor([0.1, 0.0, 0.2, 0.4, 0.05, 0.25])
    n = 4000
    uniform = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    z = torch.tensor([1.0, 2.0, 3.0])[None, :, None].expand(n, 3, 1)
    found = select(weights.expand(n, 6), z, uniform).squeeze(1)
    counts = [int((found == value).sum()) for value in (1, 2, 3, -1, -2, -3)]
    assert counts == pytest.approx((weights * n).tolist(), abs=1.01)


def test_the_chosen_noise_follows_the_tilted_kernel():
    """exp <a, gain z> tilts N(0, I) into N(gain a, I); what the remainder adds to a reward is noise, and no more."""
    plan = compiled("ddim", PATHS["vp_cosine"])
    stage = plan.stages[9]
    kernel, noise = Kernel.of(stage, plan, LOCAL), Noise(0, range(1000))
    assert kernel is not None
    a = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    z = noise.normal(stage.index, 0, (150, 3))
    deviations = kernel.deviations(z, stage, noise)
    weights = torch.softmax(torch.cat([deviations, -deviations], dim=1) @ a, dim=1)
    chosen = select(weights, z, noise.uniform(stage.index, 67, 1))
    assert kernel.gain * float(a.norm()) > 0.2
    torch.testing.assert_close(chosen.mean(dim=0), kernel.gain * a, rtol=0, atol=5 / 1000**0.5)
    torch.testing.assert_close(torch.cov(chosen.T), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.2)


# From end to end, with selection in every local stage.


@pytest.fixture
def selecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "drowned", lambda self, difference, _: torch.ones(len(difference), dtype=torch.bool))


def gaussian(path: Path):
    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        return alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * x

    return network


@pytest.mark.usefixtures("selecting")
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_selection_reaches_the_tilted_gaussian(solver: str):
    """N(0, v I) tilted by <a, x> is N(v a, v I). Steps are short: the tilted kernel is right to first order only."""
    n, a = 600, torch.tensor([1.5, -0.5], dtype=torch.float64)
    plan = compiled(solver, PATHS["vp_cosine"], steps=120)
    doob = Doob(lambda x: x @ a, posterior=LOCAL)
    x, report = steering.run(plan, gaussian(plan.path), (n, 2), steer=doob, dtype=torch.float64, tile=None, report=True)
    assert report.methods == {"average": n, "select": n * (plan.rows - 1)}
    torch.testing.assert_close(x.mean(dim=0), VARIANCE * a, rtol=0, atol=0.15)
    torch.testing.assert_close(x.var(dim=0), torch.full((2,), VARIANCE, dtype=torch.float64), rtol=0, atol=0.12)


@pytest.mark.usefixtures("selecting")
@pytest.mark.parametrize("budget", [None, 100])
def test_selecting_keeps_rows_pure(budget: int | None):
    plan = compiled("dpmpp_2m", PATHS["vp_cosine"], steps=8)
    bank = posteriors.bank(VARIANCE**0.5 * Noise(9, range(200)).normal(0, 0, (2,), torch.float32), LOCAL)

    def draw(n: int) -> Tensor:
        doob = Doob(lambda x: 3 * x[:, 0], particles=8, posterior=bank, reward_budget=budget)
        return steering.run(plan, gaussian(plan.path), (n, 2), seed=1, steer=doob)

    large = draw(37)
    for n in (1, 5, 16, 20):
        assert torch.equal(draw(n), large[:n])


def test_the_remainder_is_real_where_the_gain_takes_all():
    path = PATHS["vp_cosine"]
    plan = compiled("ddim", path)
    for low, high in ((0.01, 0.3), (0.003, 0.7), (0.02, 5.0)):
        local = posteriors.Gaussian(steering.Calibration((path.t_min, path.t_max), (low, high)))
        kernels = [Kernel.of(stage, plan, local) for stage in plan.stages]
        assert all(isinstance(each.remainder, float) for each in kernels if each)
