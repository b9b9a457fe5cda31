"""Reversible Heun: the paper's algorithm, and back again to the last digits."""

import math

import pytest
import torch
from torch import Tensor

import steering
from steering.errors import PlanError
from steering.flow.reversible import march
from steering.paths import Path
from steering.plans.plan import Node
from steering.sampling.sampler import Problem
from tests.steering.conftest import PATHS
from tests.steering.test_solvers import MIXTURE, start


def problem(path: Path, steps: int, reverse: bool = False, dtype: torch.dtype = torch.float64) -> Problem:
    plan = steering.plan("reversible_heun", path=path, steps=steps, prediction="x0", reverse=reverse)
    return Problem(plan=plan, event=(2,), dtype=dtype)


def test_the_plan_is_algorithm_1_of_the_paper(path: Path):
    """In y = x / hypot(alpha, sigma) over the angle arctan rho, with the registers (y, yh, v) it is stated in."""
    network, x, plan = MIXTURE.network(path), start(path, 2), problem(path, 7).plan

    def slope(y: Tensor, node: Node) -> Tensor:
        size = math.hypot(node.alpha, node.sigma)
        denoised = network(y * size, torch.full((len(y),), node.t, dtype=torch.float64))
        eps = (y * size - node.alpha * denoised) / node.sigma
        return (node.alpha * eps - node.sigma * denoised) / size

    first, *rest = plan.nodes
    y = yh = x / math.hypot(first.alpha, first.sigma)
    v, angle = slope(yh, first), math.atan(first.rho)
    for node in rest:
        h = math.atan(node.rho) - angle
        yh = 2 * y - yh + h * v
        new = slope(yh, node)
        y, v, angle = y + h * (v + new) / 2, new, angle + h
    ours = steering.run(plan, network, (16, 2), x_init=x, dtype=torch.float64)
    assert torch.allclose(ours, y * math.hypot(node.alpha, node.sigma), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("steps", [2, 40])
def test_there_and_back_is_the_identity_up_to_rounding(path: Path, steps: int):
    network, x = MIXTURE.network(path), start(path, 2)
    y, yh = steering.solve(march(problem(path, steps), x, x), network)
    back = steering.solve(march(problem(path, steps, reverse=True), y, yh), network)
    scale = float(x.abs().max())
    for returned in back:
        assert float((returned - x).abs().max()) < 1e-12 * scale


def test_a_shadow_apart_from_the_state_comes_back_too(path: Path):
    network, x = MIXTURE.network(path), start(path, 2)
    shadow = x + 0.1 * x.flip(0)
    y, yh = steering.solve(march(problem(path, 10), x, shadow), network)
    back, other = steering.solve(march(problem(path, 10, reverse=True), y, yh), network)
    assert torch.allclose(back, x, rtol=1e-12, atol=1e-12)
    assert torch.allclose(other, shadow, rtol=1e-12, atol=1e-12)


def test_with_a_fresh_shadow_the_way_back_is_not_exact():
    path = PATHS["vp_cosine"]
    network, x = MIXTURE.network(path), start(path, 2)
    y, _ = steering.solve(march(problem(path, 6), x, x), network)
    alone, _ = steering.solve(march(problem(path, 6, reverse=True), y, y), network)
    assert 1e-6 < float((alone - x).norm() / x.norm()) < 1e-1


def test_a_march_from_one_state_is_the_run(path: Path):
    network, x = MIXTURE.network(path), start(path, 2)
    y, _ = steering.solve(march(problem(path, 6), x, x), network)
    assert torch.equal(y, steering.run(problem(path, 6).plan, network, (16, 2), x_init=x, dtype=torch.float64))


def test_float32_states_come_back_to_float32():
    path = PATHS["edm"]
    network, x = MIXTURE.network(path), start(path, 2).float()
    y, yh = steering.solve(march(problem(path, 20, dtype=torch.float32), x, x), network)
    back, _ = steering.solve(march(problem(path, 20, reverse=True, dtype=torch.float32), y, yh), network)
    assert back.dtype == torch.float32
    assert torch.allclose(back, x, rtol=1e-4, atol=1e-4)


def test_a_mean_reverting_process_marches_about_its_mean():
    path = PATHS["vp_cosine"]
    inner, x, mean = MIXTURE.network(path), start(path, 2), torch.tensor([[3.0, -2.0]], dtype=torch.float64)
    plan = problem(path, 5).plan
    shifted = Problem(plan=plan, event=(2,), dtype=torch.float64, mean=mean.expand(16, 2))
    y, yh = steering.solve(march(shifted, x + mean, x + mean), lambda x, t: inner(x - mean, t) + mean)
    z, zh = steering.solve(march(problem(path, 5), x, x), inner)
    assert torch.allclose(y, z + mean, rtol=1e-10)
    assert torch.allclose(yh, zh + mean, rtol=1e-10)


def test_other_plans_are_refused():
    plan = steering.plan("heun", path=PATHS["edm"], steps=3, prediction="x0")
    with pytest.raises(PlanError, match="march: expected a plan of solver 'reversible_heun', got 'heun'"):
        next(march(Problem(plan=plan, event=(2,)), torch.zeros(1, 2), torch.zeros(1, 2)))
