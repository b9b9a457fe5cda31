"""Couplings and their straightness: exactly straight ones, linear flows in closed form, and what reflow changes."""

import pytest
import torch
from torch import Tensor

import steering
from steering import Noise, PlanError, Problem
from steering.flow.reflow import Coupling, couple
from steering.paths import Path
from steering.problems import GaussianMixture

FLOW = steering.paths.rectified_flow(t_min=1e-4, t_max=1 - 1e-4)


def coupled(
    network, path: Path, d: int, n: int = 64, solver: str = "dpmpp_2m", steps: int = 100, prediction: str = "x0"
) -> Coupling:
    plan = steering.plan(solver, path=path, steps=steps, prediction=prediction)
    return steering.solve(
        couple(Problem(plan=plan, event=(d,), dtype=torch.float64), Noise(0, range(n))), network, tile=None
    )


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "dpm_solver_2"])
def test_a_point_mass_is_reached_on_straight_lines(path: Path, solver: str):
    """Velocity eps - m, a constant of each trajectory, whatever the path's own time."""
    m = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    result = coupled(lambda x, t: m.expand_as(x), path, 2, solver=solver, steps=12)
    assert float(result.straightness.max()) < 1e-12
    assert float(result.curvature.max()) < 1e-6
    assert float(result.one_step_error.max()) < 1e-12
    nodes = steering.plan("ddim", path=path, steps=1, prediction="x0").nodes
    first, last = (node.sigma / (node.alpha + node.sigma) for node in nodes)
    # the first state, first * noise, is (1 - first) m + first * eps
    truth = (result.noise - m / first).square().sum(1) * (first - last)
    assert torch.allclose(result.transport_cost, truth, rtol=1e-9)
    assert torch.allclose(result.kinetic_energy, truth, rtol=1e-9)


def gaussian(s: float) -> GaussianMixture:
    """N(1, s^2) on the line."""
    one = torch.ones(1, dtype=torch.float64)
    return GaussianMixture(one, one[:, None], (s**2 * one)[:, None, None])


def test_a_gaussians_flow_in_closed_form():
    """z = (1 - tau) m + w sqrt((1 - tau)^2 s^2 + tau^2), w normal: its speed, integrated on a fine grid."""
    s = 0.3
    result = coupled(gaussian(s).network(FLOW), FLOW, 1, steps=400)
    tau = torch.linspace(FLOW.t_min, FLOW.t_max, 200_001, dtype=torch.float64)
    spread = torch.sqrt((1 - tau) ** 2 * s**2 + tau**2)
    w = result.noise[:, 0] / spread[-1] * FLOW.t_max - (1 - FLOW.t_max) / spread[-1]
    slope = (tau - (1 - tau) * s**2) / spread
    first, second = (float(torch.trapezoid(slope**k, tau)) for k in (1, 2))
    span = FLOW.t_max - FLOW.t_min
    assert torch.allclose(result.kinetic_energy, span - 2 * w * first + w**2 * second, rtol=2e-3)
    assert torch.allclose(result.transport_cost, (w * first - span) ** 2 / span, rtol=5e-3, atol=1e-3)
    assert torch.allclose(result.straightness, w**2 * (second - first**2 / span), rtol=5e-3, atol=1e-6)
    assert torch.allclose(result.curvature, w.abs() * float(slope[-1] - slope[0]), rtol=1e-2, atol=1e-3)
    assert float(result.straightness.mean()) > 0.05


def test_straightness_is_kinetic_energy_less_transport_cost(path: Path, mixture: GaussianMixture):
    result = coupled(mixture.network(path), path, 2, steps=300)
    assert torch.allclose(result.straightness, result.kinetic_energy - result.transport_cost, atol=0.02)
    assert float(result.straightness.min()) > 0


def test_the_pairs_are_the_plans_own_samples(mixture: GaussianMixture):
    path = steering.paths.edm()
    plan = steering.plan("heun", path=path, steps=9, prediction="x0")
    result = coupled(mixture.network(path), path, 2, n=5, solver="heun", steps=9)
    assert torch.equal(result.noise, Noise(0, range(5)).normal(0xFFFFFFFF, 0, (2,)))
    assert torch.equal(result.data, steering.run(plan, mixture.network(path), (5, 2), dtype=torch.float64))
    assert result.network_rows == 5 * (2 * 9 - 1 + 1)


def test_the_flow_costs_less_than_independent_pairs(path: Path, mixture: GaussianMixture):
    """Theorem 3.5 for c = |x - z|^2, whose mean over independent pairs is E |x_0|^2 + d."""
    result = coupled(mixture.network(path), path, 2, n=400, steps=40)
    second = (mixture.means**2).sum(1) + mixture.covariances.diagonal(dim1=1, dim2=2).sum(1)
    assert float(result.transport_cost.mean()) < 0.8 * float((mixture.weights * second).sum() + 2)
    cost = (result.data - result.noise).square().sum(1)
    assert float((result.transport_cost - cost).abs().max()) < 0.3  # the chord stops short of tau 0 and 1


def test_reflow_of_a_gaussian_is_straight_and_costs_the_same():
    """The flow's map is T(z) = a z + b; straight lines between the pairs have velocity (1 - a) z - b."""
    first = coupled(gaussian(0.3).network(FLOW), FLOW, 1, steps=400)
    slope = (first.data[1] - first.data[0]) / (first.noise[1] - first.noise[0])
    shift = first.data[0] - slope * first.noise[0]
    assert torch.allclose(first.data, slope * first.noise + shift, atol=1e-9)

    def straight(x: Tensor, t: Tensor) -> Tensor:
        tau = t[:, None]
        z = (x - (1 - tau) * shift) / ((1 - tau) * slope + tau)
        return (1 - slope) * z - shift

    second = coupled(straight, FLOW, 1, steps=400, prediction="velocity")
    assert float(second.straightness.max()) < 1e-3 * float(first.straightness.mean())
    assert float(second.one_step_error.max()) < 1e-6
    assert float(first.one_step_error.mean()) > 0.01
    assert torch.allclose(second.transport_cost, first.transport_cost, atol=0.01)


def test_reflow_of_a_mixture_straightens_at_no_cost():
    """On the line pairs never cross: the regression of z - x on the state is interpolation between them."""
    two = GaussianMixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        torch.tensor([[-1.0], [1.5]], dtype=torch.float64),
        torch.tensor([[[0.04]], [[0.09]]], dtype=torch.float64),
    )
    first = coupled(two.network(FLOW), FLOW, 1, n=4000, steps=100)
    z, order = first.noise[:, 0].sort()
    data = first.data[order, 0]
    assert bool((data.diff() > 0).all())

    def regressed(x: Tensor, t: Tensor) -> Tensor:
        state = (1 - t[0]) * data + t[0] * z
        above = torch.searchsorted(state, x[:, 0].contiguous()).clamp(1, len(z) - 1)
        low, high = state[above - 1], state[above]
        weight = ((x[:, 0] - low) / (high - low))[:, None]
        velocity = (z - data)[:, None]
        return velocity[above - 1] * (1 - weight) + velocity[above] * weight

    second = coupled(regressed, FLOW, 1, n=1000, steps=60, prediction="velocity")
    assert float(second.straightness.mean()) < 0.02 * float(first.straightness.mean())
    assert float(second.one_step_error.mean()) < 0.02 * float(first.one_step_error.mean())
    assert float(second.transport_cost.mean()) == pytest.approx(float(first.transport_cost[:1000].mean()), rel=0.03)


def test_rows_are_pure(mixture: GaussianMixture):
    path = steering.paths.vp_cosine()
    plan = steering.plan("dpmpp_2m", path=path, steps=7, prediction="x0")
    every, few = (
        steering.solve(couple(Problem(plan=plan, event=(2,)), Noise(2, range(n))), mixture.network(path))
        for n in (20, 3)
    )
    for name in ("noise", "data", "straightness", "kinetic_energy", "transport_cost", "curvature", "one_step_error"):
        assert torch.equal(getattr(every, name)[:3], getattr(few, name))


def test_plans_with_noise_and_means_are_refused(mixture: GaussianMixture):
    path = steering.paths.vp_cosine()
    noisy = steering.plan("ddim", path=path, steps=5, prediction="x0", eta=1.0)
    with pytest.raises(PlanError, match=r"fixed steps without noise.*'ddim', which draws noise"):
        steering.solve(couple(Problem(plan=noisy, event=(2,)), Noise(0, range(3))), mixture.network(path))
    plan = steering.plan("ddim", path=path, steps=5, prediction="x0")
    with pytest.raises(PlanError, match="mean: expected none"):
        steering.solve(
            couple(Problem(plan=plan, event=(2,), mean=torch.ones(3, 2)), Noise(0, range(3))), mixture.network(path)
        )
