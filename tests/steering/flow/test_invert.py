"""Data -> noise -> data, against the exact flow of a Gaussian and by the order of what does not come back."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import PlanError, Problem
from steering.flow.invert import decode, encode, round_trip
from steering.paths import Path
from steering.problems import GaussianMixture

VARIANCES = torch.tensor([0.09, 0.25, 1.0], dtype=torch.float64)
MEAN = torch.tensor([0.5, -0.3, 0.8], dtype=torch.float64)
GAUSSIAN = GaussianMixture(torch.ones(1, dtype=torch.float64), MEAN[None], torch.diag(VARIANCES)[None])
SOLVERS = [
    name for name, solver in steering.solvers.items() if solver.updates and not solver.uses_noise and name != "searched"
]


def problem(solver: str, path: Path, steps: int, dtype: torch.dtype = torch.float64, **other) -> Problem:
    plan = steering.plan(solver, path=path, steps=steps, prediction="x0", **other)
    return Problem(plan=plan, event=(3,), dtype=dtype)


def encoded(path: Path, x: Tensor) -> Tensor:
    """Where the probability flow takes x from t_min to t_max: x - alpha m grows like the standard deviation."""
    (a, s), (b, r) = ((path.alpha(t), path.sigma(t)) for t in (path.t_min, path.t_max))
    return b * MEAN + (x - a * MEAN) * torch.sqrt((b**2 * VARIANCES + r**2) / (a**2 * VARIANCES + s**2))


@pytest.mark.parametrize("solver", SOLVERS)
def test_encoding_converges_to_the_exact_flow(solver: str):
    path, x = steering.paths.vp_cosine(), GAUSSIAN.sample(8, 0)
    errors = []
    for steps in (40, 80):
        noise = steering.solve(encode(problem(solver, path, steps), x), GAUSSIAN.network(path))
        errors.append(float((noise - encoded(path, x)).abs().max()))
    assert errors[1] < 0.1
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_round_trip_comes_back_up_to_the_solvers_error(solver: str):
    path, x = steering.paths.vp_cosine(), GAUSSIAN.sample(8, 0)
    reports = [
        steering.solve(round_trip(problem(solver, path, steps), x), GAUSSIAN.network(path)) for steps in (40, 80)
    ]
    assert reports[1].error.max() < 0.2
    assert reports[1].error.max() < 0.7 * reports[0].error.max()
    for report in reports:
        assert torch.equal(report.error, (report.data - x).abs().amax(dim=1))


@pytest.mark.parametrize("path", ["vp_cosine", "rectified_flow", "edm"], indirect=True)
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("euler", 1), ("heun", 3)])
def test_the_order_of_what_does_not_come_back(path: Path, solver: str, order: int):
    """A step's error is c h^(p + 1), and c (-h)^(p + 1) on the way back: for even p they cancel to leading order."""
    x, network = GAUSSIAN.sample(8, 0), GAUSSIAN.network(path)
    errors = [
        float(steering.solve(round_trip(problem(solver, path, steps), x), network).error.max())
        for steps in (60, 120, 240)
    ]
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([order] * 2, abs=0.35)


def test_a_plan_serves_in_both_directions(mixture: GaussianMixture):
    path, x = steering.paths.vp_cosine(), mixture.sample(5, 0)
    forward = Problem(
        plan=steering.plan("dpmpp_2m", path=path, steps=30, prediction="x0"), event=(2,), dtype=torch.float64
    )
    backward = Problem(
        plan=steering.plan("dpmpp_2m", path=path, steps=30, prediction="x0", reverse=True),
        event=(2,),
        dtype=torch.float64,
    )
    network = mixture.network(path)
    noise = steering.solve(encode(forward, x), network)
    assert torch.allclose(noise, steering.solve(encode(backward, x), network), atol=1e-12, rtol=0)
    data = steering.solve(decode(forward, noise), network)
    assert torch.equal(data, steering.run(forward.plan, network, (5, 2), x_init=noise, dtype=torch.float64))
    assert torch.allclose(data, steering.solve(decode(backward, noise), network), atol=1e-12, rtol=0)


def test_samples_are_encoded_to_the_noise_they_came_from(path: Path, mixture: GaussianMixture):
    problem = Problem(
        plan=steering.plan("dpmpp_2m", path=path, steps=150, prediction="x0"), event=(2,), dtype=torch.float64
    )
    network = mixture.network(path)
    x = steering.run(problem.plan, network, (6, 2), seed=4, dtype=torch.float64)
    z = steering.Noise(4, range(6)).normal(0xFFFFFFFF, 0, (2,)) * problem.plan.nodes[0].sigma
    noise = steering.solve(encode(problem, x), network)
    assert float((noise - z).abs().max()) < 0.05 * problem.plan.nodes[0].sigma


def test_what_it_costs_and_that_rows_are_pure(mixture: GaussianMixture):
    path, x = steering.paths.edm(), mixture.sample(20, 0).to(torch.float32)
    problem = Problem(plan=steering.plan("heun", path=path, steps=6, prediction="x0"), event=(2,))
    report = steering.solve(round_trip(problem, x), mixture.network(path))
    assert report.network_rows == 20 * 2 * (2 * 6 - 1)
    few = steering.solve(round_trip(problem, x[:3]), mixture.network(path))
    assert torch.equal(few.data, report.data[:3])
    assert torch.equal(few.noise, report.noise[:3])


def test_conditions_and_means_travel_along():
    """Data N(label, 0.25) around a mean: encoded and decoded under their own labels."""
    path = steering.paths.vp_cosine()

    def network(x: Tensor, t: Tensor, label: Tensor, offset: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        y = x.to(torch.float64) - offset - alpha * label[:, None]
        return (offset + label[:, None] + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * y).to(x.dtype)

    label, mean = torch.tensor([0.0, 3.0, -2.0], dtype=torch.float64), torch.tensor([[5.0], [5.0], [7.0]]).double()
    plan = steering.plan("dpmpp_2m", path=path, steps=100, prediction="x0")
    problem = Problem(plan=plan, event=(1,), dtype=torch.float64, condition={"label": label, "offset": mean}, mean=mean)
    report = steering.solve(round_trip(problem, mean + label[:, None]), network)
    # a mean's trajectory stays where the means are
    assert torch.allclose(report.noise, mean + plan.nodes[0].alpha * label[:, None], atol=0.05)
    assert float(report.error.max()) < 1e-3


@pytest.mark.parametrize(
    ("solver", "other", "complaint"),
    [
        ("ddim", {"eta": 1.0}, "fixed steps without noise, as of .*heun.*; got 'ddim', which draws noise .eta 1."),
        ("heun", {"churn": 10.0}, "got 'heun', which draws noise"),
    ],
)
def test_plans_with_noise_are_refused_and_what_can_is_named(solver: str, other: dict[str, Any], complaint: str):
    path = steering.paths.edm()
    with pytest.raises(PlanError, match=complaint):
        steering.solve(
            round_trip(problem(solver, path, 8, **other), torch.zeros(2, 3, dtype=torch.float64)),
            GAUSSIAN.network(path),
        )


def test_shapes_are_checked():
    path = steering.paths.edm()
    with pytest.raises(ValueError, match=r"expected tensors of shape \[n, 3\], got \[2, 4\]"):
        steering.solve(encode(problem("ddim", path, 8), torch.zeros(2, 4)), GAUSSIAN.network(path))
