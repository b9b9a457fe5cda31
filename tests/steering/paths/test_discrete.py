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
        (lambda: paths.vp_discrete(alpha_bars=[0.5, 0.0]), "got 0.0 after 0.0"),
        (lambda: paths.vp_discrete(alpha_bars=[0.5, float("nan")]), "got nan after 0.5"),
        (lambda: paths.vp_betas(t_min=1e-4), "1000 steps has times in 0.001..1, got t_min=0.0001"),
        (lambda: paths.vp_betas().between(0.1, 1.2), "got t_min=0.1, t_max=1.2"),
        (lambda: paths.vp_betas(schedule="sigmoid"), "unknown schedule 'sigmoid': expected one of linear, scaled_li"),
        (lambda: paths.vp_betas(beta_start=0.1, beta_end=0.01), "beta_start <= beta_end"),
        (lambda: paths.vp_betas(steps=1), "steps: expected an integer in 2..100000, got 1"),
    ],
)
def test_what_is_no_table_is_refused(make, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        make()
