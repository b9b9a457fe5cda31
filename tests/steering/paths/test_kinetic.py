"""Kinetic-optimal paths: closed forms, the bound from below, and every other path above."""

import math
from itertools import pairwise

import pytest
import torch

from steering import paths
from steering.paths import DenoisingError, KineticOptimal, empirical_error, kinetic_energy
from steering.problems import GaussianMixture
from tests.steering.conftest import CLOSED_PATHS, gaussian_kinetic

T = torch.linspace(0, 1, 41, dtype=torch.float64)


def optimal(error: DenoisingError) -> KineticOptimal:
    return KineticOptimal(error=error)


def mixture_error(mixture: GaussianMixture, high: float = 6.0, n: int = 4000, levels: int = 121) -> DenoisingError:
    """Measured with the exact denoiser, at log-SNR -6..high."""
    x0 = mixture.sample(n, seed=1)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    knots, errors = torch.linspace(-6, high, levels, dtype=torch.float64).tolist(), []
    for level in knots:
        rho = torch.full((n,), math.exp(-level), dtype=torch.float64)
        denoised = mixture.denoised(x0 + rho[:, None] * eps, torch.ones_like(rho), rho)
        errors.append(float((x0 - denoised).square().mean()))
    return DenoisingError(tuple(knots), tuple(errors), float(x0.square().mean()))


@pytest.mark.parametrize(("mean", "variance"), [(0.8, 0.3), (2.0, 1.0), (0.5, 4.0)])
def test_a_gaussian_has_its_displacement_interpolation(mean: float, variance: float):
    """Optimal transport from N(mu, v) to N(0, 1): the mean falls linearly, and so does the standard deviation."""
    path = gaussian_kinetic(mean, variance, reach=9.0, levels=1000)
    spread = torch.sqrt(path.alpha(T) ** 2 * variance + path.sigma(T) ** 2)
    torch.testing.assert_close(path.alpha(T), 1 - T, rtol=0, atol=2e-3)
    torch.testing.assert_close(spread, (1 - T) * math.sqrt(variance) + T, rtol=0, atol=2e-3)
    wasserstein = mean**2 + (math.sqrt(variance) - 1) ** 2
    assert kinetic_energy(path, path.error) == pytest.approx(wasserstein, rel=5e-3)


def test_the_error_of_the_table_falls_with_its_levels():
    errors = []
    for levels in (50, 100, 200):
        path = gaussian_kinetic(0.8, 0.3, reach=9.0, levels=levels)
        errors.append(float((path.alpha(T) - (1 - T)).abs().max()))
    assert all(coarse > 3 * fine for coarse, fine in pairwise(errors))


def test_trajectories_on_the_optimal_path_of_a_gaussian_are_straight_lines():
    """x(t) from the flow's closed form: its velocity does not change on the way."""
    mean, variance = 0.8, 0.3
    path = gaussian_kinetic(mean, variance, reach=9.0, levels=1000)
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    spread = torch.sqrt(path.alpha(t) ** 2 * variance + path.sigma(t) ** 2)
    for z in (-2.0, 0.3, 1.5):
        velocity = (path.alpha(t) * mean + spread * z).diff() / t.diff()
        torch.testing.assert_close(velocity, velocity.mean().expand_as(velocity), rtol=0, atol=0.02)


def test_data_far_apart_have_the_rectified_flow():
    """No error at any level, as n points in d >> n^2 dimensions: straight lines from every point."""
    levels = torch.linspace(-9, 9, 1000, dtype=torch.float64).tolist()
    path = optimal(DenoisingError(tuple(levels), (0.0,) * 1000, 1.0))
    torch.testing.assert_close(path.alpha(T), 1 - T, rtol=0, atol=1e-3)
    torch.testing.assert_close(path.sigma(T), T, rtol=0, atol=1e-3)
    x0 = torch.randn(16, 4096, generator=torch.Generator().manual_seed(0))
    fitted = optimal(empirical_error(x0 / x0.square().mean().sqrt(), levels[::5]))
    torch.testing.assert_close(fitted.alpha(T), 1 - T, rtol=0, atol=0.03)  # in the most noise, points are not far apart
    torch.testing.assert_close(fitted.sigma(T), T, rtol=0, atol=0.03)


def test_standard_normal_data_cost_next_to_nothing():
    path = gaussian_kinetic(0.0, 1.0)
    assert kinetic_energy(path, path.error) < 1e-3 < kinetic_energy(paths.rectified_flow(), path.error)
    assert bool((path.log_snr(T).diff() < 0).all())


def test_the_energy_is_the_mean_square_velocity(mixture: GaussianMixture):
    """E|u|^2 with u = alpha' D + sigma' (x - alpha D) / sigma, drawn, against the formula that knows only the error."""
    n, path = 10000, paths.vp_linear()
    error = mixture_error(mixture, high=2.5, n=n, levels=61)  # near the data the terms cancel, their noise does not
    log_snr = torch.tensor(error.log_snr, dtype=torch.float64).flip(0)
    t, energies = path.time_of_log_snr(log_snr), []
    x0 = mixture.sample(n, seed=3)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    network = mixture.network(path, "velocity")
    for at in t.tolist():
        x = path.alpha(at) * x0 + path.sigma(at) * eps
        energies.append(network(x, torch.full((n,), at, dtype=torch.float64)).square().mean())
    assert kinetic_energy(path, error) == pytest.approx(float(torch.trapezoid(torch.stack(energies), t)), rel=0.05)


def test_no_path_costs_less(mixture: GaussianMixture):
    error = mixture_error(mixture)
    best = optimal(error)
    line = error.second_moment + 1 - 2 * math.sqrt(error.second_moment) * math.cos(float(error.angles()[-1]))
    assert kinetic_energy(best, error) == pytest.approx(line, rel=5e-3)
    others = {name: kinetic_energy(path, error) for name, path in CLOSED_PATHS.items()}
    assert others["vp_linear"] > others["rectified_flow"] > 1.02 * line
    assert all(energy > 1.02 * line for energy in others.values())


def test_a_path_beside_the_optimal_one_costs_more(mixture: GaussianMixture):
    """The energy is least, to first order, at the line itself: moving it by delta adds a multiple of delta^2."""
    error = mixture_error(mixture)
    best = kinetic_energy(optimal(error), error)
    for quantity in ("second_moment", "mse"):
        gains = []
        for factor in (0.8, 0.9, 1 / 0.9, 1 / 0.8):
            changed = {
                "second_moment": DenoisingError(error.log_snr, error.mse, error.second_moment * factor),
                "mse": DenoisingError(error.log_snr, tuple(m * factor for m in error.mse), error.second_moment),
            }[quantity]
            gains.append(kinetic_energy(optimal(changed), error) - best)
        assert min(gains) > 0
        assert gains[0] > gains[1]
        assert gains[3] > gains[2]


def test_levels_may_come_in_either_order():
    levels, mse = (-5.0, 0.0, 5.0), (0.9, 0.4, 1e-5)
    rising = paths.kinetic_optimal(log_snr=levels, mse=mse, second_moment=1.0)
    assert paths.kinetic_optimal(log_snr=levels[::-1], mse=mse[::-1], second_moment=1.0) == rising


@pytest.mark.parametrize(
    ("log_snr", "mse", "second_moment", "complaint"),
    [
        ([0.0], [0.1], 1.0, "two or more levels"),
        ([], [], 1.0, "two or more levels"),
        ([0.0, 1.0], [0.1], 1.0, "one mse a level of log_snr, got 1 and 2"),
        ([0.0, 0.0], [0.1, 0.2], 1.0, "every level once"),
        ([0.0, 1.0], [0.1, -0.2], 1.0, "mse >= 0"),
        ([0.0, 1.0], [0.1, 0.2], 0.0, "second_moment > 0"),
        ([0.0, math.nan], [0.1, 0.2], 1.0, "every level once"),
    ],
)
def test_what_is_no_error_curve_is_refused(log_snr, mse, second_moment: float, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        paths.kinetic_optimal(log_snr=log_snr, mse=mse, second_moment=second_moment)
