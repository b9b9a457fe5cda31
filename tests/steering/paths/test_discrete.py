"""Paths of integer steps: their table, what lies between, and the time their networks are fed."""

import pytest
import torch

from steering import paths
from steering.paths import TIME_INPUTS, VPDiscrete

ALPHA_BARS = [0.99, 0.8, 0.35, 0.02]


def test_the_table_is_met_at_its_steps():
    path = paths.vp_discrete(alpha_bars=ALPHA_BARS)
    t = torch.arange(1, 5, dtype=torch.float64) / 4
    table = torch.tensor(ALPHA_BARS, dtype=torch.float64)
    torch.testing.assert_close(path.alpha(t) ** 2, table, rtol=1e-14, atol=0)
    torch.testing.assert_close(path.sigma(t) ** 2, 1 - table, rtol=1e-13, atol=0)
    assert (path.t_min, path.t_max) == (0.25, 1.0)


def test_between_steps_log_alpha_is_straight():
    path = paths.vp_discrete(alpha_bars=ALPHA_BARS)
    log = 0.5 * torch.tensor(ALPHA_BARS, dtype=torch.float64).log()
    torch.testing.assert_close(path.alpha(0.6).log(), log[1] + 0.4 * (log[2] - log[1]), rtol=1e-14, atol=0)
    torch.testing.assert_close(path.alpha_dot(0.6) / path.alpha(0.6), 4 * (log[2] - log[1]), rtol=1e-13, atol=0)
    assert float(path.alpha(0)) == 1


def test_stable_diffusions_betas():
    """The published noise level of its last step, and the product of its betas written out."""
    path = paths.vp_betas()
    assert isinstance(path, VPDiscrete)
    product = 1.0
    for n in range(1000):
        product *= 1 - (0.00085**0.5 + n / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
        assert path.alpha_bars[n] == pytest.approx(product, rel=1e-11)
    assert float(path.sigma(1) / path.alpha(1)) == pytest.approx(14.6146, abs=1e-4)
    assert float(path.sigma(1e-3) / path.alpha(1e-3)) == pytest.approx(0.0292, abs=1e-4)


def test_linear_betas_are_those_of_ddpm():
    path = paths.vp_betas(schedule="linear", beta_start=1e-4, beta_end=0.02)
    assert float(path.alpha(1e-3) ** 2) == pytest.approx(1 - 1e-4, rel=1e-12)
    assert float(path.alpha(1) ** 2) == pytest.approx(4.0358e-5, rel=1e-4)
    continuous = paths.vp_linear()  # its limit for many steps, beta(t) = N beta_n (Song et al. 2021, appendix B)
    t = torch.linspace(0.01, 1, 34, dtype=torch.float64)
    torch.testing.assert_close(path.alpha(t), continuous.alpha(t), rtol=0.03, atol=1e-3)


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("sigmoid", "sigmoid"), ("squaredcos_cap_v2", None)],
)
@pytest.mark.parametrize("zero", [False, True])
def test_schedules_are_those_of_diffusers(schedule: str, kind: str | None, zero: bool):
    """Against diffusers' scheduler, which computes in float32."""
    diffusers = pytest.importorskip("diffusers")
    ends = {} if kind is None else {"beta_start": 1e-4, "beta_end": 0.02}
    path = paths.vp_betas(schedule=schedule, zero_terminal_snr=zero, **ends)  # type: ignore[arg-type]
    scheduler = (
        diffusers.DDIMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=zero, **ends)
        if (schedule != "sigmoid")
        else diffusers.DDPMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=zero, **ends)
    )
    assert isinstance(path, VPDiscrete)
    ours = torch.tensor(path.alpha_bars)
    torch.testing.assert_close(ours[:-1], scheduler.alphas_cumprod[:-1].float(), rtol=2e-3, atol=1e-6)
    assert (path.alpha_bars[-1] == 0) == zero


def test_the_cosine_schedule_is_the_continuous_one_at_its_steps():
    """But for its last betas, which are capped."""
    path, continuous = paths.vp_betas(schedule="squaredcos_cap_v2"), paths.vp_cosine()
    t = torch.arange(1, 991, dtype=torch.float64) / 1000
    torch.testing.assert_close(path.alpha(t), continuous.alpha(t), rtol=1e-9, atol=0)


def test_zero_terminal_snr_keeps_the_first_step_and_ends_in_noise():
    plain, path = paths.vp_betas(), paths.vp_betas(zero_terminal_snr=True)
    assert isinstance(plain, VPDiscrete)
    assert isinstance(path, VPDiscrete)
    assert path.alpha_bars[0] == pytest.approx(plain.alpha_bars[0], rel=1e-12)
    assert (path.t_min, path.t_max) == (0.001, 0.999)  # the last step with data in it
    whole = path.between(0.001, 1.0)
    assert (float(whole.alpha(1)), float(whole.sigma(1)), float(whole.log_snr(1))) == (0.0, 1.0, -torch.inf)
    assert torch.isfinite(whole.alpha_dot(1.0))
    assert float(whole.sigma_dot(1.0)) == 0


def test_the_last_interval_of_zero_terminal_snr_is_straight_in_alpha():
    path = paths.vp_betas(zero_terminal_snr=True, steps=10)
    t = torch.tensor([0.9, 0.925, 0.95, 0.975, 1.0], dtype=torch.float64)
    alpha = path.alpha(t)
    torch.testing.assert_close(alpha, alpha[0] * torch.tensor([1, 0.75, 0.5, 0.25, 0]).double(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones(5).double(), rtol=1e-12, atol=0)
    inside = torch.tensor([0.15, 0.5, 0.899, 0.9, 0.93, 0.99], dtype=torch.float64)
    torch.testing.assert_close(path.time_of_log_snr(path.log_snr(inside)), inside, rtol=1e-9, atol=1e-12)
    near = torch.tensor([0.91, 0.96, 0.99], dtype=torch.float64)
    step = 1e-6
    for value, slope in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)):
        numeric = (value(near + step) - value(near - step)) / (2 * step)
        torch.testing.assert_close(slope(near), numeric, rtol=1e-5, atol=1e-8)


def test_steps_are_counted_from_zero():
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(
        TIME_INPUTS["N*t-1"](paths.vp_betas(), t), torch.arange(1000, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert float(TIME_INPUTS["N*t-1"](paths.vp_discrete(alpha_bars=ALPHA_BARS), t[-1])) == 3


def test_only_a_discrete_path_counts_steps():
    with pytest.raises(ValueError, match=r"'N\*t-1': expected a path of N steps \(vp_discrete, vp_betas\), got EDM"):
        TIME_INPUTS["N*t-1"](paths.edm(), torch.ones(1))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: paths.vp_discrete(alpha_bars=[0.5]), "two or more numbers, got 1"),
        (lambda: paths.vp_discrete(alpha_bars=[0.5, 0.6]), "falling from 1 to 0, .*, got 0.6 after 0.5"),
        (lambda: paths.vp_discrete(alpha_bars=[1.0, 0.6]), "got 1.0 after 1.0"),
        (lambda: paths.vp_discrete(alpha_bars=[0.5, 0.0, 0.0]), "got 0.0 after 0.0"),
        (lambda: paths.vp_discrete(alpha_bars=[0.5, float("nan")]), "got nan after 0.5"),
        (lambda: paths.vp_betas(t_min=1e-4), "1000 steps has times in 0.001..1, got t_min=0.0001"),
        (lambda: paths.vp_betas().between(0.1, 1.2), "got t_min=0.1, t_max=1.2"),
        (lambda: paths.vp_betas(schedule="cosine"), "unknown schedule 'cosine': expected one of linear, scaled_li"),
        (lambda: paths.vp_betas(beta_start=0.1, beta_end=0.01), "beta_start <= beta_end"),
        (lambda: paths.vp_betas(schedule="squaredcos_cap_v2", beta_end=0.02), "expected no beta_start and beta_end"),
        (lambda: paths.vp_betas(steps=1), "steps: expected an integer in 2..100000, got 1"),
    ],
)
def test_what_is_no_table_is_refused(make, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        make()
