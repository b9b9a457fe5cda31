"""Projection onto measurements: what it meets exactly, and its law on Gaussians, by recursion and by samples."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import SteeringError
from steering.methods.inverse_problems import Project, inpaint, linear
from steering.paths import Path
from steering.plans.plan import Plan
from steering.problems import GaussianMixture

PATH = steering.paths.vp_cosine()
SOLVERS = ["ddim", "euler", "heun", "dpmpp_2m", "dpm_solver_2", "dpm_solver_3", "euler_ancestral"]
MASK = torch.tensor([False, True])


def correlated(c: float) -> GaussianMixture:
    """Two coordinates of variance 1 and correlation c around 0."""
    covariance = torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64)
    return GaussianMixture(torch.ones(1).double(), torch.zeros(1, 2).double(), covariance[None])


def law(plan: Plan, c: float, y: float) -> tuple[float, float]:
    """Mean and variance of the first coordinate where the second is measured as y: every stage is linear in r and z."""
    width, eye = max(len(stage.update.A) for stage in plan.stages), torch.eye(2, dtype=torch.float64)
    covariance, first = correlated(c).covariances[0], plan.nodes[0]
    mean = torch.zeros(2 * width, dtype=torch.float64)
    spread = torch.zeros(2 * width, 2 * width, dtype=torch.float64)
    mean[1], spread[:2, :2] = first.alpha * y, first.sigma**2 * eye
    for stage in plan.stages:
        update, at = stage.update, stage.update.at
        denoise = at.alpha * covariance @ torch.linalg.inv(at.alpha**2 * covariance + at.sigma**2 * eye)
        denoise[1] = 0  # the measured part of D is y, whatever the state
        rows = [torch.tensor([*row, *[0.0] * (width - len(row))], dtype=torch.float64) for row in update.A]
        A = torch.stack([*rows, *[torch.zeros(width).double()] * (width - len(rows))])
        b = torch.tensor([*update.b, *[0.0] * (width - len(rows))], dtype=torch.float64)
        move = torch.kron(A, eye)
        move[:, :2] += torch.kron(b[:, None], denoise)
        mean = move @ mean + torch.kron(b, torch.tensor([0.0, y], dtype=torch.float64))
        spread = move @ spread @ move.T
        if update.C:
            C = torch.tensor([*update.C, *[(0.0,) * stage.draws] * (width - len(rows))], dtype=torch.float64)
            spread = spread + torch.kron(C @ C.T, eye)
    return float(mean[0]), float(spread[0, 0])


def compiled(solver: str, steps: int, path: Path = PATH, **other) -> Plan:
    return steering.plan(solver, path=path, steps=steps, prediction="x0", **other)


@pytest.mark.parametrize("path", ["vp_cosine", "edm", "rectified_flow"], indirect=True)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_measured_part_is_the_diffused_measurement_with_fixed_noise(path: Path, solver: str):
    """alpha y + sigma eps at t_min with the eps of the first state: replacement, in any number of steps."""
    y = torch.tensor([[9.0, 1.5], [9.0, -2.0], [9.0, 0.0]], dtype=torch.float64)
    plan = compiled(solver, 5, path)
    x = steering.run(plan, correlated(0.8).network(path), (3, 2), seed=1, steer=inpaint(MASK, y), dtype=torch.float64)
    last = plan.nodes[-1]
    eps = (x[:, 1] - last.alpha * y[:, 1]) / last.sigma
    assert float(eps.abs().max()) < 5
    if not plan.uses_noise:
        drawn = steering.Noise(1, range(3)).normal(0xFFFFFFFF, 0, (2,))
        assert torch.allclose(eps, drawn[:, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "other"),
    [("dpmpp_2m", {}), ("ddim", {"eta": 1.0}), ("dpmpp_2m", {"eta": 2.0}), ("heun", {"churn": 20.0})],
)
def test_samples_follow_the_law_of_the_projected_plan(solver: str, other: dict[str, Any]):
    n, c, y = 4000, 0.8, 1.0
    plan = compiled(solver, 40, **other)
    mean, variance = law(plan, c, y)
    values = torch.tensor([[0.0, y]])
    x = steering.run(plan, correlated(c).network(PATH), (n, 2), seed=3, steer=inpaint(MASK, values), tile=None)
    assert float(x[:, 0].mean()) == pytest.approx(mean, abs=5 * (variance / n) ** 0.5)
    assert float(x[:, 0].var()) == pytest.approx(variance, rel=5 * (2 / n) ** 0.5)


def test_noise_brings_the_law_to_the_posterior():
    """The figures of the module's docstring; the posterior is N(0.8, 0.36)."""
    laws = [law(compiled("dpmpp_2m", 400, eta=eta), 0.8, 1.0) for eta in (0.0, 1.0, 2.0, 3.0)]
    churned = [law(compiled("heun", 400, churn=churn), 0.8, 1.0) for churn in (20.0, 80.0)]
    expected = [(0.35, 0.67), (0.50, 0.54), (0.66, 0.43), (0.73, 0.39), (0.56, 0.50), (0.69, 0.42)]
    for (mean, variance), (m, v) in zip([*laws, *churned], expected, strict=True):
        assert mean == pytest.approx(m, abs=0.015)
        assert variance == pytest.approx(v, abs=0.015)
    for one, other in pairwise(laws):
        assert one[0] < other[0] < 0.8
        assert one[1] > other[1] > 0.36


def test_independent_coordinates_follow_their_own_law_exactly():
    for eta in (0.0, 1.0):
        mean, variance = law(compiled("dpmpp_2m", 200, eta=eta), 0.0, 5.0)
        assert mean == pytest.approx(0, abs=1e-12)
        assert variance == pytest.approx(1, abs=1e-2)


def test_a_linear_measurement_is_met():
    """Two equations in four unknowns, with rows neither orthogonal nor of unit length."""
    matrix = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.0, 3.0, 1.0, 1.0]], dtype=torch.float64)
    four = GaussianMixture.random(4, 3, seed=2)
    truth = four.sample(6, 0)
    y = truth @ matrix.T

    def network(x: Tensor, t: Tensor) -> Tensor:
        return four.network(PATH)(x.flatten(1), t).reshape(x.shape)

    plan = compiled("dpmpp_2m", 20)
    x = steering.run(plan, network, (6, 2, 2), steer=linear(matrix, y, (2, 2)), dtype=torch.float64)
    drawn = steering.Noise(0, range(6)).normal(0xFFFFFFFF, 0, (4,))
    last = plan.nodes[-1]
    assert torch.allclose(x.flatten(1) @ matrix.T, last.alpha * y + last.sigma * drawn @ matrix.T, atol=1e-9)


def test_a_linear_measurement_of_one_coordinate_is_inpainting():
    network, plan = correlated(0.8).network(PATH), compiled("ddim", 10)
    masked = inpaint(MASK, torch.tensor([[0.0, 1.3]], dtype=torch.float64))
    measured = linear(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.3]], dtype=torch.float64), (2,))
    one, other = (steering.run(plan, network, (4, 2), steer=steer, dtype=torch.float64) for steer in (masked, measured))
    assert torch.allclose(one, other, atol=1e-12)


def test_callables_pool_images():
    """Super-resolution: 2 x 2 means are measured, their pseudo-inverse repeats them."""
    project = Project(
        torch.full((1, 1, 2, 2), 0.7),
        lambda x: torch.nn.functional.avg_pool2d(x, 2),
        lambda y: y.repeat_interleave(2, -1).repeat_interleave(2, -2),
    )

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (c.float().reshape(-1, 1, 1, 1) for c in (PATH.alpha(t.double()), PATH.sigma(t.double())))
        return alpha / (alpha**2 + sigma**2) * x

    x, report = steering.run(compiled("dpmpp_2m", 10), network, (3, 1, 4, 4), steer=project, report=True)
    pooled = torch.nn.functional.avg_pool2d(x, 2)
    assert torch.allclose(pooled, torch.tensor(0.7), atol=3 * float(PATH.sigma(PATH.t_min)))
    assert float(x.std()) > 0.3  # the rest is drawn, not filled with means
    assert report.network_rows == 30
    assert report.reward_rows == 0


def test_rows_are_pure(mixture: GaussianMixture):
    matrix = torch.tensor([[1.0, 0.5]])
    for steer in (inpaint(MASK, torch.tensor([[0.0, 0.4]])), linear(matrix, torch.tensor([[0.4]]), (2,))):
        every, few = (
            steering.run(compiled("ddim", 6, eta=1.0), mixture.network(PATH), (n, 2), seed=2, steer=steer)
            for n in (37, 5)
        )
        assert torch.equal(every[:5], few)


@pytest.mark.parametrize(
    ("steer", "complaint"),
    [
        (Project(torch.ones(1, 1), lambda x: 2 * x[:, :1], lambda y: y.expand(-1, 2)), "expected y = A A"),
        (
            Project(torch.ones(1, 1), lambda x: x[:, :1], lambda y: y),
            r"shape \[1, 2\], got \[1, 1\]",
        ),
        (inpaint(MASK, torch.ones(4, 2)), "expected values for 1 or 3 samples, got 4"),
    ],
)
@pytest.mark.parametrize("x_init", [None, torch.zeros(3, 2)])
def test_what_cannot_be_met_is_refused(steer: Project, complaint: str, x_init: Tensor | None):
    with pytest.raises(SteeringError, match=complaint):
        steering.run(compiled("ddim", 4), correlated(0.5).network(PATH), (3, 2), steer=steer, x_init=x_init)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: inpaint(torch.ones(2), torch.ones(1, 2)), r"mask: expected bool \[2\], got torch.float32 \[2\]"),
        (lambda: inpaint(torch.ones(3) > 0, torch.ones(1, 2)), r"mask: expected bool \[2\], got torch.bool \[3\]"),
        (lambda: linear(torch.ones(1, 3), torch.ones(1, 1), (2,)), r"a matrix \[m, 2\] and values \[n, m\]"),
    ],
)
def test_shapes_are_checked(make: Any, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_twisted_values_are_refused():
    """Two equal rows cannot measure two values."""
    twice = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(SteeringError, match="values: expected y = A A"):
        steering.run(
            compiled("ddim", 4), correlated(0.5).network(PATH), (3, 2),
            steer=linear(twice, torch.tensor([[0.0, 1.0]]), (2,)),
        )  # fmt: skip
    x = steering.run(
        compiled("ddim", 4), correlated(0.5).network(PATH), (3, 2), steer=linear(twice, torch.ones(1, 2), (2,))
    )
    assert torch.allclose(x.sum(1), torch.ones(3), atol=math.sqrt(2) * 4 * float(PATH.sigma(PATH.t_min)))
