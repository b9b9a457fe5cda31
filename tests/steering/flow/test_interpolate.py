"""Interpolation: its ends, the great circle, and the closed form where the flow is linear."""

import math

import pytest
import torch
from torch import Tensor

import steering
from steering import PlanError, Problem
from steering.flow.interpolate import interpolate, spherical
from steering.flow.invert import round_trip
from steering.problems import GaussianMixture


def problem(steps: int = 100, dtype: torch.dtype = torch.float64) -> Problem:
    plan = steering.plan("dpmpp_2m", path=steering.paths.vp_cosine(), steps=steps, prediction="x0")
    return Problem(plan=plan, event=(2,), dtype=dtype)


def test_the_great_circle_turns_evenly():
    a, b = torch.tensor([[3.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 3.0]], dtype=torch.float64)
    for weight in (0.0, 0.25, 0.5, 1.0):
        angle = weight * math.pi / 2
        expected = torch.tensor([[3 * math.cos(angle), 3 * math.sin(angle)]], dtype=torch.float64)
        assert torch.allclose(spherical(a, b, weight), expected, atol=1e-12)


def test_parallel_and_opposite_noises_are_joined_by_a_line():
    a = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[2.0, 4.0], [-1.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(spherical(a, b, 0.25), 0.75 * a + 0.25 * b, atol=1e-12)


def test_independent_normals_keep_their_law():
    """The circle's weights have squares that sum to one where the ends are orthogonal, as in high dimensions."""
    noise = steering.Noise(0, range(200))
    a, b = (noise.normal(0, draw, (400,)) for draw in (0, 1))
    for weight in (0.2, 0.5):
        assert float(spherical(a, b, weight).square().mean()) == pytest.approx(1, abs=0.02)


def test_the_ends_are_the_samples(mixture: GaussianMixture):
    first, second = mixture.sample(6, 0), mixture.sample(6, 1)
    network = mixture.network(problem().plan.path)
    x = steering.solve(interpolate(problem(), first, second, [0.0, 0.5, 1.0]), network)
    assert x.shape == (3, 6, 2)
    back = steering.solve(round_trip(problem(), torch.cat([first, second])), network).data
    assert torch.allclose(torch.cat([x[0], x[2]]), back, atol=1e-9)
    assert float((torch.cat([x[0], x[2]]) - torch.cat([first, second])).abs().max()) < 0.05


def test_on_a_gaussian_the_circle_is_scaled_by_the_flow():
    """Data N(0, v): noise and data differ by one factor, so data are joined by a great circle too."""
    v = torch.eye(2, dtype=torch.float64)[None] * 0.3
    gaussian = GaussianMixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64), v)
    first, second = gaussian.sample(5, 0), gaussian.sample(5, 1)
    x = steering.solve(interpolate(problem(400), first, second, [0.3]), gaussian.network(problem().plan.path))
    assert torch.allclose(x[0], spherical(first, second, 0.3), atol=1e-3)


def test_the_path_between_stays_on_the_data():
    """Two far modes on the axes: a straight mean of samples lies between them, the interpolation within a mode."""
    means = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    modes = GaussianMixture(
        torch.tensor([0.5, 0.5], dtype=torch.float64), means, torch.eye(2).double()[None].repeat(2, 1, 1) * 0.01
    )
    first, second = means[:1].clone(), means[1:].clone()
    network = modes.network(problem().plan.path)
    weights = torch.linspace(0, 1, 9).tolist()
    x = steering.solve(interpolate(problem(), first, second, weights), network)[:, 0]
    near = torch.cdist(x, means).amin(dim=1)
    assert int((near < 0.5).sum()) >= 8
    assert float(torch.cdist((first + second) / 2, means).amin()) > 1.4


def test_rows_are_pure_and_conditions_their_own():
    path = problem().plan.path

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        alpha, sigma = (c.to(x.dtype)[:, None] for c in (path.alpha(t.double()), path.sigma(t.double())))
        return label[:, None] + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x - alpha * label[:, None])

    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(7, 2, generator=g), torch.randn(7, 2, generator=g)
    label = torch.arange(7.0)
    plan = problem(10).plan
    every = steering.solve(
        interpolate(Problem(plan=plan, event=(2,), condition={"label": label}), first, second, [0.3, 0.7]), network
    )
    few = steering.solve(
        interpolate(Problem(plan=plan, event=(2,), condition={"label": label[:2]}), first[:2], second[:2], [0.3, 0.7]),
        network,
    )
    assert torch.equal(every[:, :2], few)


def test_bad_input_is_refused(mixture: GaussianMixture):
    network = mixture.network(problem().plan.path)
    with pytest.raises(ValueError, match=r"one shape, got \[3, 2\] and \[4, 2\]"):
        steering.solve(interpolate(problem(), torch.zeros(3, 2), torch.zeros(4, 2), [0.5]), network)
    plan = steering.plan("ddim", path=problem().plan.path, steps=5, prediction="x0", eta=1.0)
    with pytest.raises(PlanError, match="'ddim', which draws noise"):
        steering.solve(
            interpolate(Problem(plan=plan, event=(2,)), torch.zeros(3, 2), torch.zeros(3, 2), [0.5]), network
        )
