"""Diagnostics against fields whose residual, rotation, dimension and energy are known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import steering
from steering import Noise, Problem, diagnostics
from steering.errors import PlanError
from steering.flow.reflow import couple
from steering.paths import Path
from steering.problems import GaussianMixture
from tests.steering.conftest import PATHS

Network = Callable[[Tensor, Tensor], Tensor]
ROTATION = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
SPREAD = 0.8
RHOS = (0.2, 0.7, 3.0)


@pytest.fixture(params=["vp_cosine", "edm", "rectified_flow", "mean_reverting"])
def path(request: pytest.FixtureRequest) -> Path:
    return PATHS[request.param]


def gaussian(*variances: float, mean: float = 0.0) -> GaussianMixture:
    d = len(variances)
    means = torch.full((1, d), mean, dtype=torch.float64)
    return GaussianMixture(
        torch.ones(1, dtype=torch.float64), means, torch.diag(torch.tensor(variances).double())[None]
    )


ROUND = gaussian(SPREAD**2, SPREAD**2)


def twisted(law: GaussianMixture, path: Path, matrix: Tensor) -> Network:
    """The law's denoiser with matrix x added to its score."""
    exact = law.network(path)

    def network(x: Tensor, t: Tensor) -> Tensor:
        factor = (path.sigma(t) ** 2 / path.alpha(t))[:, None]
        return exact(x, t) + factor * (x[:, None] * matrix).sum(-1)

    return network


def problem(path: Path, d: int, solver: str = "dpmpp_2m", steps: int = 20, **other) -> Problem:
    return Problem(
        plan=steering.plan(solver, path=path, steps=steps, prediction="x0", **other), event=(d,), dtype=torch.float64
    )


def at(path: Path, rho: float) -> tuple[float, float, float]:
    """(t, alpha, sigma) at a noise level."""
    t = float(path.time_of_log_snr(torch.tensor(-math.log(rho), dtype=torch.float64)))
    return t, float(path.alpha(t)), float(path.sigma(t))


def solve(generator, network: Network):
    return steering.solve(generator, network, tile=None)


@pytest.mark.parametrize("rho", RHOS)
def test_an_exact_score_passes_to_the_error_of_the_differences(path: Path, mixture: GaussianMixture, rho: float):
    asked, data, noise, t = problem(path, 2), mixture.sample(32, seed=1), Noise(0, range(32)), at(path, rho)[0]
    network = mixture.network(path)
    assert solve(diagnostics.residual(asked, data, noise, t), network).residual < 3e-5
    assert solve(diagnostics.drift(asked, data, noise, t), network).residual < 1e-4
    assert solve(diagnostics.asymmetry(asked, data, noise, t), network).denoiser < 1e-7
    assert solve(diagnostics.loops(asked, data, noise, t, points=64), network).share < 1e-8


def test_float32_shows_little_of_its_rounding(mixture: GaussianMixture):
    path = PATHS["vp_cosine"]
    asked = Problem(plan=steering.plan("dpmpp_2m", path=path, steps=20, prediction="x0"), event=(2,))
    states = mixture.sample(64, seed=1), Noise(0, range(64))
    for rho in RHOS:
        t = at(path, rho)[0]
        assert solve(diagnostics.residual(asked, *states, t), mixture.network(path)).residual < 0.01
        assert solve(diagnostics.drift(asked, *states, t), mixture.network(path)).residual < 0.1
        assert solve(diagnostics.asymmetry(asked, *states, t), mixture.network(path)).score < 1e-3


@pytest.mark.parametrize("c", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("rho", RHOS)
def test_a_rotation_about_a_gaussian_has_its_closed_forms(path: Path, rho: float, c: float):
    """S = J x, J = -1 / v + c A: |J|^2 = 2 / v^2 + 2 c^2, and A, as large as 1, is all the asymmetry."""
    (t, alpha, sigma), noise = at(path, rho), Noise(0, range(16))
    v = alpha**2 * SPREAD**2 + sigma**2
    states = problem(path, 2), ROUND.sample(16, seed=1), noise, t
    network = twisted(ROUND, path, c * ROTATION)

    asymmetry = solve(diagnostics.asymmetry(*states), network)
    assert asymmetry.score == pytest.approx(2 * c / math.hypot(1 / v, c), rel=1e-5)
    assert asymmetry.denoiser == pytest.approx(2 * c / math.hypot(1 / sigma**2 - 1 / v, c), rel=1e-5)
    circulation = c * 2 * math.pi * (0.5 * sigma * math.sqrt(2)) ** 2
    assert solve(diagnostics.loops(*states), network).circulation == pytest.approx(circulation, rel=1e-6)

    # the potential gains sigma^2 |c A x|^2; the drift sees 2 c (kappa - 2 sigma^2 / v) A x besides
    residual = 2 * sigma**2 * c**2 / math.hypot(1 / v, c)
    assert solve(diagnostics.residual(*states), network).residual == pytest.approx(residual, rel=1e-3)
    lam = torch.tensor([-math.log(rho) - 1e-4, -math.log(rho) + 1e-4], dtype=torch.float64)
    kappa = float(path.alpha(path.time_of_log_snr(lam)).log().diff()) / 2e-4
    drift = math.hypot(2 * c * (kappa - 2 * sigma**2 / v), 2 * sigma**2 * c**2) / math.hypot(1 / v, c)
    assert solve(diagnostics.drift(*states), network).residual == pytest.approx(drift, rel=1e-3)


def test_random_probes_are_unbiased_in_many_dimensions():
    """J = -1 / v + c A with A antisymmetric and of unit rows, in 24 dimensions from 4 probes."""
    path, d, c, n = PATHS["vp_cosine"], 24, 0.7, 400
    t, alpha, sigma = at(path, 1.0)
    v = alpha**2 * SPREAD**2 + sigma**2
    law, matrix = gaussian(*[SPREAD**2] * d), torch.block_diag(*[ROTATION] * (d // 2))
    states = problem(path, d), law.sample(n, seed=1), Noise(0, range(n)), t
    network = twisted(law, path, c * matrix)
    found = solve(diagnostics.asymmetry(*states, probes=4), network)
    assert found.score == pytest.approx(2 * c / math.hypot(1 / v, c), rel=0.05)
    assert abs(found.score - 2 * c / math.hypot(1 / v, c)) < 4 * found.error

    twist = solve(diagnostics.drift(*states, probes=4), network).residual
    few = problem(path, 2), ROUND.sample(n, seed=1), Noise(0, range(n)), t
    assert twist == pytest.approx(solve(diagnostics.drift(*few), twisted(ROUND, path, c * ROTATION)).residual, rel=0.05)


def test_a_drift_of_zero_stays_below_its_floor_where_probes_scatter():
    path, law = PATHS["vp_cosine"], GaussianMixture.random(dimension=32, components=3, seed=0)
    states = problem(path, 32), law.sample(200, seed=1), Noise(0, range(200)), at(path, 0.7)[0]
    found = solve(diagnostics.drift(*states, probes=4), law.network(path))
    assert found.residual <= found.floor < 0.2


# div(p w) = 0 for w = A x and round Gaussians p


@pytest.mark.parametrize("c", [0.5, 1.0])
def test_a_gauge_rotation_leaves_the_law_of_the_samples(c: float):
    path, n = PATHS["vp_linear"], 400
    plain, turned = ROUND.network(path), twisted(ROUND, path, c * ROTATION)
    ode = problem(path, 2, "heun", steps=300, grid="uniform")
    x, y = (steering.run(ode.plan, net, (n, 2), dtype=torch.float64, tile=None) for net in (plain, turned))
    torch.testing.assert_close(x.norm(dim=1), y.norm(dim=1), rtol=2e-3, atol=0)
    assert float((x - y).norm(dim=1).mean()) > 0.3 * c
    sde = problem(path, 2, "ddim", steps=150, eta=1.0)
    gap = solve(diagnostics.ode_sde_gap(sde, y, Noise(1, range(n))), turned)
    assert gap.energy <= gap.energy_floor
    assert gap.sliced <= gap.sliced_floor


def test_the_gap_grows_with_a_rotation_that_is_no_gauge():
    path, law, n = PATHS["vp_cosine"], gaussian(1.0, 0.04, mean=0.5), 400
    gaps = []
    for c in (0.0, 0.6, 3.0):
        network = twisted(law, path, c * ROTATION)
        flowed = steering.run(problem(path, 2).plan, network, (n, 2), dtype=torch.float64, tile=None)
        sde = problem(path, 2, "ddim", steps=150, eta=1.0)
        gaps.append(solve(diagnostics.ode_sde_gap(sde, flowed, Noise(1, range(n))), network))
    none, some, more = gaps
    assert none.energy <= none.energy_floor
    assert some.energy > 2 * some.energy_floor
    assert more.energy > 2 * some.energy
    assert more.sliced > 2 * some.sliced > 2 * some.sliced_floor


def test_floors_hold_between_equal_laws_and_fall_with_the_samples():
    law = gaussian(*[1.0] * 6)
    found = [diagnostics.compare(law.sample(60, seed), law.sample(100, seed + 100), seed) for seed in range(10)]
    assert sum(each.energy > each.energy_floor for each in found) <= 2
    assert sum(each.sliced > each.sliced_floor for each in found) <= 2
    many = diagnostics.compare(law.sample(240, 1), law.sample(400, 2), 0)
    assert many.energy_floor < found[0].energy_floor / 2


def test_sliced_distance_of_two_gaussians():
    """Round ones d apart: W_2 of a projection is |<d, u>|, of root mean square |d| / sqrt(dimension)."""
    law = gaussian(1.0, 1.0, 1.0, 1.0)
    x, y = law.sample(1000, 1), law.sample(1000, 2) + 1.5  # 3 apart
    pooled = math.sqrt(4 + 3**2 / 4)
    assert diagnostics.compare(x, y, 0).sliced == pytest.approx(3 / pooled, rel=0.1)


@pytest.mark.parametrize("rho", [0.5, 2.0])
def test_gauge_and_strain_of_linear_errors(path: Path, rho: float):
    """N = c v A for the rotation c A x, and k for the score (1 + k) S."""
    n, (t, alpha, sigma) = 1000, at(path, rho)
    v = alpha**2 * SPREAD**2 + sigma**2
    states = problem(path, 2), ROUND.sample(n, seed=1), Noise(0, range(n)), t
    turned = solve(diagnostics.gauge(*states), twisted(ROUND, path, 0.6 / v * ROTATION))
    assert turned.rotation == pytest.approx(0.6, abs=0.08)
    assert turned.strain < 0.15
    strained = solve(diagnostics.gauge(*states), twisted(ROUND, path, -0.6 / v * torch.eye(2, dtype=torch.float64)))
    assert strained.strain == pytest.approx(0.6, abs=0.08)
    assert strained.rotation < 0.15


def test_the_gauges_floor_holds_for_an_exact_score():
    path, n = PATHS["vp_cosine"], 200
    asked, data, t = problem(path, 2), ROUND.sample(n, seed=1), at(path, 0.5)[0]
    exact = [solve(diagnostics.gauge(asked, data, Noise(s, range(n)), t), ROUND.network(path)) for s in range(20)]
    assert sum(each.rotation > each.floor for each in exact) <= 4
    assert sum(each.strain > each.floor for each in exact) <= 4
    assert exact[0].floor < 0.3


def test_dimension_is_the_rank_of_a_degenerate_gaussian(path: Path):
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    for rank in (0, 3, 8):
        variances = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.7, 1.0, 1.5, 0.4]) * (torch.arange(8) < rank)
        law = GaussianMixture(
            torch.ones(1, dtype=torch.float64),
            torch.ones(1, 8, dtype=torch.float64),
            (basis @ torch.diag(variances.double()) @ basis.T)[None],
        )
        points = 1 + torch.randn(3, 8, generator=generator, dtype=torch.float64) @ (basis * variances.sqrt()).T
        t, alpha, sigma = at(path, 0.05)
        found = solve(
            diagnostics.intrinsic_dimension(problem(path, 8), points, Noise(0, range(3)), t), law.network(path)
        )
        assert found.dimension.tolist() == [rank] * 3
        expected = (sigma**2 / (sigma**2 + alpha**2 * variances.double())).sort(descending=True).values
        torch.testing.assert_close(found.spectrum, expected.expand(3, 8), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.effective, 8 - found.spectrum.sum(1))


@pytest.mark.parametrize("name", ["vp_cosine", "edm", "rectified_flow"])
def test_flow_lines_to_a_point_are_straight(name: str):
    path = PATHS[name]
    point = gaussian(0.0, 0.0, 0.0, mean=1.5)
    found = diagnostics.straightness(
        solve(couple(problem(path, 3, steps=40), Noise(0, range(16))), point.network(path))
    )
    assert max(found.straightness, found.curvature, found.one_step_error) < 1e-2


def test_straightness_of_a_gaussian():
    """z = g eps with g^2 = (1 - tau)^2 s^2 + tau^2: the energy is int g'^2 and the cost (1 - s)^2."""
    s, path = 0.3, steering.paths.rectified_flow()
    law = gaussian(*[s**2] * 4)
    coupling = solve(couple(problem(path, 4, steps=200, grid="uniform"), Noise(0, range(64))), law.network(path))
    tau = torch.linspace(0, 1, 2001, dtype=torch.float64)
    speed = (tau - (1 - tau) * s**2) / torch.sqrt((1 - tau) ** 2 * s**2 + tau**2)
    excess = float(torch.trapezoid(speed**2, tau)) - (1 - s) ** 2
    found = diagnostics.straightness(coupling)
    assert found.straightness == pytest.approx(excess / (1 - s) ** 2, rel=0.02)
    lengths = coupling.noise.norm(dim=1)  # g' rises from -s to 1
    bend = (1 + s) / (1 - s) * float(lengths.mean() / lengths.square().mean().sqrt())
    assert found.curvature == pytest.approx(bend, rel=0.02)
    assert found.one_step_error == pytest.approx(1, rel=0.02)  # it arrives at D(noise) = 0


def test_kinetic_energy_of_a_gaussian():
    """N(m, s^2) on the rectified flow: the mean falls evenly; the least energy is W_2^2 = m^2 + (1 - s)^2."""
    m, s, path, n = 1.0, 0.4, steering.paths.rectified_flow(), 1000
    law = gaussian(*[s**2] * 8, mean=m)
    times = path.time_of_log_snr(torch.linspace(-6.5, 6.5, 160, dtype=torch.float64)).tolist()
    found = solve(diagnostics.kinetic(problem(path, 8), law.sample(n, 1), Noise(0, range(n)), times), law.network(path))
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    speed = (t - (1 - t) * s**2) / torch.sqrt((1 - t) ** 2 * s**2 + t**2)
    assert found.energy == pytest.approx(m**2 + float(torch.trapezoid(speed**2, t)), rel=0.03)
    assert found.least == pytest.approx(m**2 + (1 - s) ** 2, rel=0.03)


def test_bad_input_is_named():
    path, law = PATHS["vp_cosine"], ROUND
    data, noise = law.sample(4, 1), Noise(0, range(4))

    def refused(generator) -> str:
        with pytest.raises(ValueError, match="expected") as error:
            solve(generator, law.network(path))
        return str(error.value)

    asked = problem(path, 2)
    assert "t: expected a time in 0.001..0.9946" in refused(diagnostics.drift(asked, data, noise, 0.9999))
    assert "data: expected shape [n, 2]" in refused(diagnostics.drift(asked, data[:, :1], noise, 0.5))
    assert "probes: expected 2 or more" in refused(diagnostics.drift(asked, data, noise, 0.5, probes=1))
    assert "probes: expected 2 or more" in refused(diagnostics.asymmetry(asked, data, noise, 0.5, probes=1))
    assert "data: expected 3 samples" in refused(diagnostics.gauge(asked, data[:2], Noise(0, range(2)), 0.5))
    assert "2 or more elements" in refused(diagnostics.loops(problem(path, 1), data[:, :1], noise, 0.5))
    half = Problem(plan=asked.plan, event=(2,), dtype=torch.float16)
    assert "float16" in refused(diagnostics.asymmetry(half, data, noise, 0.5))
    with pytest.raises(PlanError, match="expected a stochastic one"):
        solve(diagnostics.ode_sde_gap(asked, data, noise), law.network(path))
