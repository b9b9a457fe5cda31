"""Formulas of time inputs: what they give, and what is no formula."""

import math

import pytest
import torch

from steering import paths
from steering.paths import TIME_INPUTS, counts_steps, time_input

T = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
FLOW = paths.rectified_flow()


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("t", T),
        ("1000*t", 1000 * T),
        ("999*t", 999 * T),
        ("1-t", 1 - T),
        (" 1000 * (1 - t) ", 1000 * (1 - T)),
        ("sigma", T),
        ("1000*sigma", 1000 * T),
        ("alpha", 1 - T),
        ("rho", T / (1 - T)),
        ("log_snr", torch.log((1 - T) / T)),
        ("2*log_snr", 2 * torch.log((1 - T) / T)),
        ("-log_snr", torch.log(T / (1 - T))),
        ("log(sigma)/4", torch.log(T) / 4),
        ("log(rho)/4", torch.log(T / (1 - T)) / 4),
        ("1/(1+exp(-log_snr))", 1 - T),
        ("sqrt(alpha*alpha+sigma*sigma)", torch.sqrt((1 - T) ** 2 + T**2)),
        ("atan(rho)", torch.atan(T / (1 - T))),
        ("+t-.5e-1", T - 0.05),
    ],
)
def test_what_formulas_give(formula: str, expected: torch.Tensor):
    fed = time_input(formula)(FLOW, T)
    assert fed.dtype == torch.float64
    torch.testing.assert_close(fed, expected, rtol=1e-13, atol=1e-15)


def test_the_common_ones_have_the_bits_they_had():
    path = paths.vp_betas()
    t = torch.linspace(0.001, 1, 1000, dtype=torch.float64)
    before = {
        "t": t,
        "1000*t": 1000 * t,
        "sigma": path.sigma(t),
        "log(sigma)/4": path.sigma(t).log() / 4,
        "N*t-1": 1000 * t - 1,
    }
    assert {*before} == {*TIME_INPUTS}
    for formula, expected in before.items():
        assert torch.equal(TIME_INPUTS[formula](path, t), expected)
        assert torch.equal(time_input(formula)(path, t), expected)


def test_c_noise_of_any_scale():
    """A variance-preserving path and EDM's ask alike at equal rho."""
    there, here = paths.edm(), paths.vp_cosine()
    rho = torch.tensor([0.01, 0.5, 3.0, 20.0], dtype=torch.float64)
    for path in (there, here):
        fed = time_input("log(rho)/4")(path, path.time_of_log_snr(-rho.log()))
        torch.testing.assert_close(fed, rho.log() / 4, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "formula",
    [
        "", "T", "beta", "t+", "1000t", "t**2", "t if t else t", "log(t, t)", "log", "t.real", "t[0]",
        "__import__('os')", "'t'", "True*t", "1j*t", "lambda: t", "t\n+t;",
        "(" * 300 + "t" + ")" * 300, "t" + "+t" * 60, "sin(t)",
    ],
)  # fmt: skip
def test_what_is_no_formula_is_refused(formula: str):
    with pytest.raises(ValueError, match=r"expected a formula of t, alpha, sigma, rho, log_snr, N, .*such as t"):
        time_input(formula)


@pytest.mark.parametrize("formula", ["3", "N", "log(4)"])
def test_a_formula_depends_on_the_time(formula: str):
    with pytest.raises(ValueError, match="expected a formula that depends on the time, got a constant"):
        time_input(formula)


def test_whole_numbers_hold_steps_only():
    assert all(map(counts_steps, ["1000*t", "999*t", "N*t-1", "N*t", "1000*sigma", "1000*(1-t)"]))
    assert not any(map(counts_steps, ["t", "sigma", "1-t", "log(sigma)/4", "2*log_snr"]))
    assert math.isfinite(float(time_input("N*t-1")(paths.vp_betas(), T[0])))
