"""Paths: their derivatives, inverses and ends."""

import math

import pytest
import torch
from torch import Tensor

from steering import paths
from steering.paths import KINDS, Path

from .conftest import PATHS

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
    t = times(path)[1:-1]
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


@pytest.mark.parametrize("name", ["vp_cosine", "vp_linear"])
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
    assert float(path.log_snr(path.t_max)) < -3
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


def test_paths_are_values():
    for name, make in KINDS.items():
        assert make() == make() == PATHS[name]
        assert hash(make()) == hash(PATHS[name])
    assert paths.edm(0.02, 80) != paths.edm(0.002, 80)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: paths.vp_cosine(t_max=1.0), "t_max < 1"),
        (lambda: paths.vp_linear(t_min=0.5, t_max=0.5), "t_min < t_max"),
        (lambda: paths.rectified_flow(t_min=-0.1), "0 <= t_min"),
        (lambda: paths.edm(sigma_min=0), "0 < sigma_min"),
        (lambda: paths.ve(sigma_min=2, sigma_max=1), "sigma_min < sigma_max"),
        (lambda: PATHS["edm"].between(2, 1), "t_min=2.0, t_max=1.0"),
    ],
)
def test_impossible_ranges_are_refused(make, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        make()
