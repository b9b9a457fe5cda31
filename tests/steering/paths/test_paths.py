"""Paths: their derivatives, inverses and ends."""

import math
import re

import pytest
import torch
from torch import Tensor

from steering import paths
from steering.paths import KINDS, Path
from tests.steering.conftest import PATHS

FUNCTIONS = ("alpha", "sigma", "alpha_dot", "sigma_dot", "log_snr", "time_of_log_snr")


def times(path: Path, n: int = 61) -> Tensor:
    return torch.linspace(path.t_min, path.t_max, n, dtype=torch.float64)


def slope(function, t: Tensor) -> Tensor:
    """d function / dt at each of the times, by automatic differentiation."""
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum() + 0 * t.sum(), t)[0]  # 0 * t: a constant function has no graph


def test_derivatives_are_those_of_autograd(path: Path):
    t = times(path)
    torch.testing.assert_close(path.alpha_dot(t), slope(path.alpha, t), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(path.sigma_dot(t), slope(path.sigma, t), rtol=1e-10, atol=1e-14)


def test_derivatives_are_those_of_central_differences(path: Path):
    t = times(path, 121)[1::2]  # between the corners that paths given by tables have
    step = 1e-6 * t
    for value, rate in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)):
        difference = (value(t + step) - value(t - step)) / (2 * step)
        torch.testing.assert_close(rate(t), difference, rtol=1e-6, atol=1e-7)


def test_log_snr_is_that_of_the_scales_and_falls(path: Path):
    t = times(path)
    torch.testing.assert_close(path.log_snr(t), torch.log(path.alpha(t) / path.sigma(t)), rtol=1e-10, atol=1e-10)
    assert bool((path.log_snr(t).diff() < 0).all())


def test_log_snr_and_its_inverse_undo_each_other(path: Path):
    t = times(path)
    torch.testing.assert_close(path.time_of_log_snr(path.log_snr(t)), t, rtol=1e-10, atol=1e-13)
    levels = torch.linspace(float(path.log_snr(path.t_max)), float(path.log_snr(path.t_min)), 61, dtype=torch.float64)
    torch.testing.assert_close(path.log_snr(path.time_of_log_snr(levels)), levels, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["vp_cosine", "vp_linear", "vp_discrete", "vp_betas", "trig_flow", "one_sided"])
def test_variance_is_preserved(name: str):
    path = PATHS[name]
    t = times(path)
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t), rtol=0, atol=1e-15)


def test_small_noise_keeps_its_digits():
    """1 - alpha^2 cancels near the data; closed forms that don't: cos^2 a - cos^2 b = sin(b + a) sin(b - a), expm1."""
    t = torch.logspace(-6, -2, 9, dtype=torch.float64)
    cosine = paths.vp_cosine(t_min=1e-7, offset=0.008)
    origin = 0.5 * math.pi * 0.008 / 1.008
    turn = 0.5 * math.pi * t / 1.008
    exact = torch.sqrt(torch.sin(turn) * torch.sin(2 * origin + turn)) / math.cos(origin)
    torch.testing.assert_close(cosine.sigma(t), exact, rtol=1e-8, atol=0)
    linear = paths.vp_linear(beta_min=0.1, beta_max=20.0)
    integral = [0.1 * s + 0.5 * 19.9 * s * s for s in t.tolist()]
    exact = torch.tensor([math.sqrt(-math.expm1(-b)) for b in integral], dtype=torch.float64)
    torch.testing.assert_close(linear.sigma(t), exact, rtol=1e-14, atol=0)


def test_sub_vp_has_the_variance_of_vp_squared():
    """Song et al. 2021: sigma = 1 - alpha^2, below that of the variance-preserving path everywhere."""
    sub, vp = paths.sub_vp(), paths.vp_linear()
    t = times(vp)
    assert torch.equal(sub.alpha(t), vp.alpha(t))
    torch.testing.assert_close(sub.sigma(t), vp.sigma(t) ** 2, rtol=1e-14, atol=0)


def test_a_shift_multiplies_rho():
    """Esser et al. 2024, eq. 23: the shifted time is that of the unshifted flow at rho k times as large."""
    plain, shifted = paths.rectified_flow(), paths.rectified_flow(shift=3)
    t = times(plain)
    torch.testing.assert_close(torch.exp(plain.log_snr(t) - shifted.log_snr(t)), torch.full_like(t, 3.0))
    torch.testing.assert_close(shifted.alpha(t) + shifted.sigma(t), torch.ones_like(t), rtol=0, atol=1e-15)
    torch.testing.assert_close(shifted.sigma(t), 3 * t / (1 + 2 * t), rtol=1e-15, atol=0)


def test_one_sided_interpolants_are_the_flows_where_they_are_the_same():
    assert paths.one_sided() == paths.rectified_flow()
    assert paths.one_sided(coefficients="trigonometric") == paths.trig_flow()


def test_constant_beta_is_a_linear_schedule_too():
    path = paths.vp_linear(beta_min=3.0, beta_max=3.0)
    t = times(path)
    torch.testing.assert_close(path.alpha(t), torch.exp(-1.5 * t), rtol=1e-14, atol=0)
    torch.testing.assert_close(path.time_of_log_snr(path.log_snr(t)), t, rtol=1e-10, atol=0)


def test_ends_of_the_ranges():
    edm = paths.edm(sigma_min=0.02, sigma_max=80)
    assert (edm.t_min, edm.t_max) == (0.02, 80)
    assert (float(edm.sigma(edm.t_min)), float(edm.sigma(edm.t_max))) == (0.02, 80)
    ve = paths.ve(sigma_min=0.01, sigma_max=50)
    assert (ve.t_min, ve.t_max) == (0, 1)
    assert float(ve.sigma(0)) == pytest.approx(0.01, rel=1e-15)
    assert float(ve.sigma(1)) == pytest.approx(50, rel=1e-14)
    flow = paths.rectified_flow()
    assert (flow.t_min, flow.t_max) == (0.001, 0.999)
    for t in (flow.t_min, 0.3, flow.t_max):
        assert float(flow.alpha(t) + flow.sigma(t)) == 1


def test_the_end_of_every_path_is_nearly_noise_and_its_start_nearly_data(path: Path):
    assert float(path.log_snr(path.t_max)) < -2.6  # Stable Diffusion's ends at -2.68
    assert float(path.log_snr(path.t_min)) > 3


def test_between_changes_the_range_alone(path: Path):
    low, high = times(path)[[20, 40]].tolist()
    part = path.between(low, high)
    assert (part.t_min, part.t_max) == (low, high)
    assert type(part) is type(path)
    assert torch.equal(part.log_snr(times(part)), path.log_snr(times(part)))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "t",
    [
        0.25,
        1,
        torch.tensor(0.25),
        torch.rand(3),
        torch.rand(2, 3, dtype=torch.float64),
        torch.ones(4, dtype=torch.int64),
    ],
    ids=["float", "int", "scalar", "float32", "float64", "int64"],
)
def test_values_are_float64_of_the_shape_of_t(path: Path, function: str, t):
    value = getattr(path, function)(t)
    assert value.dtype == torch.float64
    assert value.shape == torch.as_tensor(t).shape


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_value_never_shares_memory_with_t(path: Path, function: str):
    t = times(path)[1:-1]
    before = t.clone()
    getattr(path, function)(t).mul_(2)
    assert torch.equal(t, before)


CARDS: dict[str, dict[str, object]] = {
    "vp_discrete": {"alpha_bars": [0.9, 0.6, 0.3, 0.01]},
    "vp_betas": {"schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "steps": 1000},
    "one_sided": {"coefficients": "sbdm"},
    "mean_reverting": {"theta_min": 2, "theta_max": 2, "sigma_inf": 0.5},
    "kinetic_optimal": {"log_snr": [-5, 0, 5], "mse": [0.9, 0.4, 1e-5], "second_moment": 1.2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cards_path_is_a_value(kind: str):
    """Equal cards make equal paths, which caches of plans find again."""
    card = {"kind": kind, **CARDS.get(kind, {})}
    path = paths.build(card)
    assert paths.build(card) == path
    assert hash(paths.build(card)) == hash(path)
    low, high = times(path)[[20, 40]].tolist()
    assert paths.build(card, (low, high)) == path.between(low, high) != path


def test_arguments_tell_paths_apart():
    assert paths.edm(0.02, 80) != paths.edm(0.002, 80)
    assert paths.rectified_flow(shift=3) != paths.rectified_flow()
    assert paths.vp_discrete(alpha_bars=[0.9, 0.1]) != paths.vp_discrete(alpha_bars=[0.9, 0.2])


@pytest.mark.parametrize(
    ("card", "complaint"),
    [
        ({"kind": "cosine"}, "unknown path 'cosine': expected one of edm, kinetic_optimal, mean_reverting"),
        ({"kind": "edm", "beta": 1}, "path 'edm': unknown argument 'beta', expected some of sigma_min, sigma_max"),
        ({"kind": "edm", "sigma_min": "low"}, "path 'edm': sigma_min: expected a number, got 'low'"),
        ({"kind": "edm", "sigma_min": True}, "sigma_min: expected a number, got True"),
        ({"kind": "vp_discrete"}, "path 'vp_discrete': expected the argument 'alpha_bars', got none"),
        ({"kind": "vp_discrete", "alpha_bars": 0.5}, "alpha_bars: expected a list of numbers, got 0.5"),
        ({"kind": "vp_discrete", "alpha_bars": [0.5, "x"]}, "alpha_bars: expected a list of numbers"),
        ({"kind": "one_sided", "coefficients": 3}, "coefficients: expected a name, got 3"),
    ],
)
def test_a_card_that_is_no_path_is_refused(card: dict[str, object], complaint: str):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        paths.build(card)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: paths.vp_cosine(t_max=1.0), "t_max < 1"),
        (lambda: paths.vp_linear(t_min=0.5, t_max=0.5), "t_min < t_max"),
        (lambda: paths.rectified_flow(t_min=-0.1), "0 <= t_min"),
        (lambda: paths.edm(sigma_min=0), "0 < sigma_min"),
        (lambda: paths.ve(sigma_min=2, sigma_max=1), "sigma_min < sigma_max"),
        (lambda: PATHS["edm"].between(2, 1), "t_min=2.0, t_max=1.0"),
        (lambda: paths.vp_linear(beta_min=2, beta_max=1), "0 <= beta_min <= beta_max"),
        (lambda: paths.sub_vp(beta_min=0, beta_max=0), "0 <= beta_min <= beta_max"),
        (lambda: paths.rectified_flow(shift=0), "shift: expected a number > 0, got 0"),
        (lambda: paths.trig_flow(t_max=1.5), "t_max <= 1"),
        (lambda: paths.one_sided(coefficients="cubic"), "unknown coefficients 'cubic': expected one of linear, sbdm"),
        (lambda: paths.mean_reverting(theta_min=-1), "0 <= theta_min <= theta_max"),
        (lambda: paths.mean_reverting(sigma_inf=0), "sigma_inf: expected a number > 0, got 0"),
    ],
)
def test_impossible_ranges_are_refused(make, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        make()
