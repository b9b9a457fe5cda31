"""Two-sided interpolants between two Gaussians, whose velocity, denoiser, flow and laws are known."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering.errors import PlanError
from steering.flow.interpolants import BRIDGES, DENOISER, LATENTS, VELOCITY, Interpolant, transport
from steering.numerics.noise import Noise
from steering.sampling.rows import answered

MEANS = (-0.7, 1.2)
VARIANCES = (0.25, 1.5)
INTERPOLANTS = [Interpolant(bridge=b, latent=g, spread=0.8) for b in BRIDGES for g in LATENTS]
BROWNIAN = Interpolant(spread=0.8)
EVENT = (16,)


def marginal(interpolant: Interpolant, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_t for independent ends N(m_0, v_0), N(m_1, v_1)."""
    a, b, gamma = interpolant.scales(t)
    return a * MEANS[0] + b * MEANS[1], a**2 * VARIANCES[0] + b**2 * VARIANCES[1] + gamma**2


def exact(interpolant: Interpolant, bias: float = 0.0) -> Callable[..., Tensor]:
    """Both heads, the velocity off by `bias`: E[x_0' | x], E[x_1 | x] and E[z | x] are linear in x - m."""

    def network(x: Tensor, t: Tensor, head: Tensor) -> Tensor:
        a, b, gamma = interpolant.scales(t)
        a_dot, b_dot, gamma_dot = interpolant.rates(t)
        mean, variance = marginal(interpolant, t)
        at_ends = interpolant.spread**2 * (0.5 - t) if interpolant.latent == "brownian" else torch.zeros_like(t)
        growth = torch.where((t > 0) & (t < 1), gamma * gamma_dot, at_ends)  # gamma gamma' = (gamma^2)' / 2
        slope = (a * a_dot * VARIANCES[0] + b * b_dot * VARIANCES[1] + growth) / variance
        offset = x - mean[:, None]
        velocity = (a_dot * MEANS[0] + b_dot * MEANS[1])[:, None] + slope[:, None] * offset + bias
        denoiser = (gamma / variance)[:, None] * offset
        return torch.where((head == VELOCITY)[:, None], velocity, denoiser)

    return network


def draw(n: int, end: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return MEANS[end] + VARIANCES[end] ** 0.5 * torch.randn(n, *EVENT, generator=g, dtype=torch.float64)


def carried(interpolant: Interpolant, x: Tensor, steps: int, bias: float = 0.0, **other: Any) -> Tensor:
    generator = transport(interpolant, x, Noise(7, range(len(x))), steps, **other)
    return steering.solve(generator, exact(interpolant, bias), tile=None)


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=str)
def test_it_starts_at_x0_ends_at_x1_and_rates_are_derivatives(interpolant: Interpolant):
    assert [round(float(c), 12) for c in interpolant.scales(0)] == [1, 0, 0]
    assert [round(float(c), 12) for c in interpolant.scales(1)] == [0, 1, 0]
    t = torch.linspace(0, 1, 42, dtype=torch.float64)[1:-1]
    later, earlier = interpolant.scales(t + 1e-6), interpolant.scales(t - 1e-6)
    for rate, high, low in zip(interpolant.rates(t), later, earlier, strict=True):
        torch.testing.assert_close(rate, (high - low) / 2e-6, rtol=1e-7, atol=1e-7)


def test_a_velocity_network_is_the_regression_of_the_interpolants_rate():
    """The closed form of the tests, against samples: E[(dx_t/dt - v(x_t)) (1, x_t)] = 0, and so for z and eta."""
    n, t = 200_000, torch.tensor([0.3], dtype=torch.float64)
    x0, x1 = (draw(n // 16, end, seed).flatten() for end, seed in ((0, 1), (1, 2)))
    z = torch.randn(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (a, b, gamma), (a_dot, b_dot, gamma_dot) = BROWNIAN.scales(t), BROWNIAN.rates(t)
    x = a * x0 + b * x1 + gamma * z
    network = exact(BROWNIAN)
    for head, target in ((VELOCITY, a_dot * x0 + b_dot * x1 + gamma_dot * z), (DENOISER, z)):
        residual = target - network(x[None], t, torch.tensor([head]))[0]
        for against in (torch.ones_like(x), x):
            product = residual * against
            assert abs(float(product.mean())) < 5 * float(product.std()) / n**0.5


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=str)
@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 0)])
def test_the_flow_is_of_order_2(interpolant: Interpolant, start: int, end: int):
    """The exact map keeps (x - m) / sqrt(V)."""
    x, errors = draw(4, start), []
    (m, v), (m_end, v_end) = marginal(interpolant, start), marginal(interpolant, end)
    target = m_end + torch.sqrt(v_end / v) * (x - m)
    for steps in (80, 160, 320):
        errors.append(float((carried(interpolant, x, steps, start=start, end=end) - target).norm()))
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders == pytest.approx([2, 2], abs=0.15)


def test_back_and_forth_is_where_it_was():
    x = draw(4, 0)
    there = carried(BROWNIAN, x, 400)
    torch.testing.assert_close(carried(BROWNIAN, there, 400, start=1, end=0), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "epsilon", [0.0, 0.5, 4.0, lambda t: 0.3 * math.sin(math.pi * t)], ids=["0", ".5", "4", "a wave"]
)
@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 0), (0, 0.5)])
@pytest.mark.parametrize("interpolant", [BROWNIAN, Interpolant(bridge="trigonometric", latent="sine_squared")], ids=str)
def test_the_law_at_the_end_does_not_depend_on_epsilon(interpolant: Interpolant, epsilon, start: float, end: float):
    x = carried(interpolant, draw(4000, round(start)), 40, epsilon=epsilon, start=start, end=end)
    mean, variance = (float(c) for c in marginal(interpolant, end))
    assert float(x.mean()) == pytest.approx(mean, abs=5 * (variance / x.numel()) ** 0.5)
    assert float(x.var()) == pytest.approx(variance, rel=5 * (2 / x.numel()) ** 0.5)


def test_noise_forgets_the_start():
    """With epsilon = 0 the end is a function of the start; with more noise it has less and less to do with it."""
    x = draw(500, 0)
    kept = []
    for epsilon in (0.0, 1.0, 10.0):
        ends = carried(BROWNIAN, x, 60, epsilon=epsilon)
        kept.append(float(torch.corrcoef(torch.stack([x.flatten(), ends.flatten()]))[0, 1]))
    assert kept[0] == pytest.approx(1, abs=1e-12)
    assert 0.9 > kept[1] > kept[2] + 0.2


def variance_at_the_end(interpolant: Interpolant, start: int, end: int, steps: int) -> float:
    """Exactly: the end is linear in the start and the draws of each step, and enough samples tell the coefficients."""
    x, noise = draw(16, start), Noise(7, range(16))
    ends = carried(interpolant, x, steps, epsilon=4.0, start=start, end=end)
    draws = [noise.normal(i, 0, EVENT).flatten() for i in range(steps)]
    known = torch.stack([torch.ones(x.numel(), dtype=torch.float64), x.flatten(), *draws], dim=1)
    _, kept, *added = torch.linalg.lstsq(known, ends.flatten()).solution.tolist()
    return kept**2 * VARIANCES[start] + sum(c**2 for c in added)


@pytest.mark.parametrize(
    ("interpolant", "start", "end"),
    [(BROWNIAN, 0, 1), (BROWNIAN, 1, 0), (Interpolant(bridge="trigonometric", latent="sine_squared"), 1, 0)],
)
def test_with_noise_the_law_is_of_order_2(interpolant: Interpolant, start: int, end: int):
    exact_variance = float(marginal(interpolant, end)[1])
    errors = [abs(variance_at_the_end(interpolant, start, end, n) - exact_variance) for n in (40, 80, 160)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders == pytest.approx([2, 2], abs=0.15)


def test_noise_heals_errors_of_the_velocity():
    """A velocity off by a constant moves the flow's mean, which the score then pulls back, the more noise the more."""
    errors = []
    for epsilon in (0.0, 5.0, 20.0, 80.0):
        ends = carried(BROWNIAN, draw(500, 0), 80, bias=0.3, epsilon=epsilon)
        errors.append(abs(float(ends.mean()) - MEANS[1]))
    assert all(more < 0.75 * less for less, more in pairwise(errors))


def test_rows_and_heads():
    """Two evaluations a step; the denoiser is asked only where noise is used, which the ends have none of."""

    def heads(epsilon: float) -> list[int]:
        asked = []
        generator = transport(BROWNIAN, draw(3, 0), Noise(0, range(3)), 5, epsilon=epsilon)

        def answer(rows: steering.Rows) -> Tensor:
            assert rows.x.shape == (3, *EVENT)
            asked.append(int(rows.condition["head"][0]))
            return exact(BROWNIAN)(rows.x, rows.t, **rows.condition)

        answered(generator, answer)
        return asked

    assert heads(0.0) == [VELOCITY] * 10
    assert heads(1.0) == [VELOCITY, *[VELOCITY, DENOISER] * 8, VELOCITY]


def test_a_sample_does_not_depend_on_its_neighbours():
    x = draw(21, 0).float()
    whole = steering.solve(transport(BROWNIAN, x, Noise(1, range(21)), 6, epsilon=1.0), exact(BROWNIAN))
    part = steering.solve(transport(BROWNIAN, x[:5], Noise(1, range(5)), 6, epsilon=1.0), exact(BROWNIAN))
    assert whole.dtype == torch.float32
    assert torch.equal(whole[:5], part)


@pytest.mark.parametrize(
    ("interpolant", "arguments", "complaint"),
    [
        (BROWNIAN, {"steps": 0}, "steps: expected an integer in 1..1000, got 0"),
        (BROWNIAN, {"start": 0.5, "end": 0.5}, "different start and end in 0..1, got start=0.5"),
        (BROWNIAN, {"end": 1.5}, "in 0..1, got start=0.0, end=1.5"),
        (BROWNIAN, {"epsilon": -1.0}, "epsilon: expected a number >= 0"),
        (BROWNIAN, {"epsilon": lambda t: 0.1}, "and 0 where gamma is 0, got 0.1 at t=0.0"),
        (Interpolant(spread=0.0), {"epsilon": 1.0}, "and 0 where gamma is 0, got 1.0"),
    ],
)
def test_what_cannot_be_done_is_refused(interpolant: Interpolant, arguments: dict[str, Any], complaint: str):
    with pytest.raises(PlanError, match=complaint):
        carried(interpolant, draw(2, 0), **{"steps": 4, **arguments})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"bridge": "cubic"}, "unknown bridge 'cubic': expected one of encoding_decoding, linear, trigonometric"),
        ({"latent": "none"}, "unknown latent 'none': expected one of brownian, quadratic, sine_squared"),
        ({"spread": -1.0}, "spread: expected a number >= 0, got -1.0"),
    ],
)
def test_unknown_coefficients_are_refused(arguments: dict[str, Any], complaint: str):
    with pytest.raises(PlanError, match=complaint):
        Interpolant(**arguments)
