"""Posteriors that need no network: a bank's weights, and the particles of the local ones."""

import math
from collections.abc import Generator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import steering
from steering import paths, posteriors, solve
from steering.numerics.noise import Noise
from steering.numerics.tiles import ROWS, by_tiles, product
from steering.numerics.weights import draw_indices, effective_size
from steering.plans.plan import Node
from steering.posteriors import Candidates
from steering.posteriors.calibration import Calibration, Uncalibrated
from steering.posteriors.neighbours import NEIGHBOURHOOD, WIDENING, tempered
from steering.problems import GaussianMixture
from steering.sampling.rows import Result, Rows
from steering.sampling.sampler import Problem
from steering.targets.target import Target

PATH = paths.vp_cosine()
CURVE = Calibration((0.001, 0.5, 0.99), (0.0001, 0.1, 0.4))
HALF = Target(torch.sum, beta=0.5)  # only its weights matter here
BANK = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def node(t: float) -> Node:
    return Node(t, float(PATH.alpha(t)), float(PATH.sigma(t)), float(PATH.log_snr(t)))


def noised(samples: Tensor, at: Node) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return at.alpha * samples + at.sigma * torch.randn(samples.shape, generator=g, dtype=samples.dtype)


def drawn(local: posteriors.Local, states: Tensor, t: float, index: int, pairs: int, noise: Noise) -> Candidates:
    """What a posterior draws for states at a stage of this index, at time t."""
    plan = steering.plan("ddim", path=PATH, steps=2, prediction="x0", grid=(PATH.t_max, t, PATH.t_min))
    stage = replace(plan.stages[1], index=index)
    return products(
        local.draw(
            Problem(plan=plan, event=tuple(states.shape[1:]), dtype=states.dtype), stage, states, states, pairs, noise
        )
    )


def products(rows: Generator[Rows, Tensor, Result]) -> Result:
    """What a generator that asks for products alone returns."""

    def network(*_: object, **__: object) -> Tensor:
        raise AssertionError("expected no network rows")

    return steering.solve(rows, network)


def first_halves(local: posteriors.Local, states: Tensor, t: float, index: int, pairs: int, noise: Noise) -> Tensor:
    candidates = drawn(local, states, t, index, pairs, noise)
    assert candidates.log_ratio is None
    assert torch.equal(candidates.deviations[:, pairs:], -candidates.deviations[:, :pairs])
    return candidates.deviations[:, :pairs]


def tilted_bank(rewards: Tensor, dtype: torch.dtype) -> posteriors.TiltedBank:
    union = posteriors.Union(posteriors.Cloud(BANK), rewards.to(torch.float64), len(BANK))
    return posteriors.TiltedBank.of(union, HALF, dtype)


# The bank.


def test_a_banks_weights_are_the_posterior_of_its_samples():
    at = node(0.4)
    x = noised(BANK[:5], at)
    logits = products(posteriors.bank(BANK).cloud.points(torch.float64).logits(x, at))
    exact = -((x[:, None] - at.alpha * BANK) ** 2).sum(dim=2) / (2 * at.sigma**2)
    torch.testing.assert_close(torch.softmax(logits, 1), torch.softmax(exact, 1), rtol=1e-9, atol=1e-15)


def test_the_start_shift_is_the_rewarded_mean_less_the_mean():
    rewards = 2 * BANK[:, 0]
    tilted = tilted_bank(rewards, torch.float64)
    weights = torch.softmax(rewards / 0.5, 0)
    torch.testing.assert_close(tilted.start_shift(), weights @ BANK - BANK.mean(dim=0), rtol=1e-10, atol=1e-12)
    assert tilted.effective_size == pytest.approx(1 / float((weights**2).sum()))
    assert not tilted.flat


def test_a_flat_bank_says_nothing_and_an_empty_one_says_so():
    flat = tilted_bank(torch.full((1000,), 0.3), torch.float32)
    assert flat.flat
    assert not flat.no_hit
    assert bool((flat.start_shift() == 0).all())
    assert flat.effective_size == pytest.approx(1000, rel=1e-4)
    blind = tilted_bank(torch.full((1000,), -math.inf), torch.float32)
    assert blind.no_hit
    assert blind.effective_size == 0
    assert bool((blind.start_shift() == 0).all())


def test_near_the_data_one_sample_has_all_the_weight_and_far_away_all_have_the_same():
    tilted = tilted_bank(torch.zeros(1000), torch.float64)
    near, far = node(0.005), node(PATH.t_max)
    assert float(products(tilted.correction(noised(BANK[:5], near), near))[1].max()) < 1.1
    assert float(products(tilted.correction(noised(BANK[:5], far), far))[1].min()) > 900


# The Gaussian.


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_gaussian_particles_have_the_calibrated_variance(t: float):
    deviations = first_halves(posteriors.gaussian(CURVE), torch.zeros(50, 20), t, 3, 40, Noise(0, range(50)))
    assert deviations.shape == (50, 40, 20)
    assert deviations.dtype == torch.float32
    assert float(deviations.double().var()) == pytest.approx(CURVE.variance(PATH, t), rel=5 * (2 / 40_000) ** 0.5)


def test_gaussian_particles_differ_between_stages_samples_and_pairs():
    local, noise = posteriors.gaussian(CURVE), Noise(0, range(2))
    first, second = (first_halves(local, torch.zeros(2, 3), 0.5, stage, 2, noise) for stage in (0, 1))
    assert len({tuple(row) for row in torch.cat([first, second]).reshape(-1, 3).tolist()}) == 8


# Neighbours.


@given(seed=st.integers(0, 99), sharpness=st.floats(0.01, 1e4), k=st.integers(50, 300))
@settings(max_examples=40, deadline=None)
def test_tempering_lets_about_forty_samples_share_the_weight(seed: int, sharpness: float, k: int):
    logits = sharpness * torch.randn(3, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = tempered(logits, NEIGHBOURHOOD)
    before, after = effective_size(torch.softmax(logits, 1)), effective_size(weights)
    for row in range(3):
        if before[row] >= NEIGHBOURHOOD:
            assert torch.equal(weights[row], torch.softmax(logits[row : row + 1], 1)[0])
        else:
            assert NEIGHBOURHOOD <= float(after[row]) < 1.02 * NEIGHBOURHOOD
        assert bool((weights[row][logits[row].argsort()].diff() >= 0).all())


def test_a_row_is_tempered_alike_whatever_the_others_need():
    scales = torch.tensor([0.1, 1, 3, 1e3, 30, 0.5, 1e4]).repeat(3)[:, None]
    logits = scales * torch.randn(21, 500, generator=torch.Generator().manual_seed(0))
    whole = tempered(logits, NEIGHBOURHOOD)
    for rows in (slice(2, 4), slice(0, 16), slice(5, 7), torch.tensor([3, 0]), torch.tensor([20, 1, 4])):
        assert torch.equal(tempered(logits[rows], NEIGHBOURHOOD), whole[rows])


def test_fewer_than_forty_samples_share_evenly():
    logits = 100 * torch.randn(1, 20, dtype=torch.float64)
    torch.testing.assert_close(tempered(logits, NEIGHBOURHOOD), torch.full((1, 20), 0.05).double(), rtol=1e-4, atol=0)


def test_samples_are_drawn_as_often_as_their_weights_say():
    weights = torch.tensor([[0.5, 0.0, 0.3, 0.2], [0.0, 0.0, 0.0, 1.0]])
    uniform = ((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).expand(2, 1000)
    counts = [torch.bincount(row, minlength=4).tolist() for row in draw_indices(weights, uniform)]
    assert counts == [[500, 0, 300, 200], [0, 0, 0, 1000]]


def many_deviations(samples: Tensor, variance: float, at: Node, states: Tensor) -> Tensor:
    local = posteriors.neighbours(samples, Calibration((0.001, 0.99), (variance, variance)))
    return first_halves(local, states, at.t, 0, 4000, Noise(0, range(len(states))))


@pytest.mark.parametrize("t", [0.3, 0.6])
def test_neighbours_are_centred_and_have_the_wanted_variance_where_the_bank_has_as_much(t: float):
    at = node(t)
    states = noised(BANK[:4], at)
    weights = tempered(products(posteriors.bank(BANK).cloud.points(torch.float64).logits(states, at)), NEIGHBOURHOOD)
    mean = weights @ BANK
    spread = (weights[:, :, None] * (BANK - mean[:, None]) ** 2).sum(dim=1).mean(dim=1)
    for variance in (0.01, 100.0):
        deviations = many_deviations(BANK, variance, at, states)
        wanted = torch.clamp(spread, max=WIDENING * variance)
        torch.testing.assert_close(deviations.square().mean(dim=(1, 2)), wanted, rtol=0.08, atol=0)
        assert float(deviations.mean(dim=1).abs().max()) < 5 * float(wanted.max()) ** 0.5 / 4000**0.5 * 1.5


def test_neighbours_move_along_the_data():
    plane = torch.randn(2, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    samples = BANK[:, :2] @ plane
    at = node(0.5)
    deviations = many_deviations(samples, 0.05, at, noised(samples[:2], at))
    assert torch.linalg.matrix_rank(deviations.reshape(-1, 30), rtol=1e-9) == 2


# The mixture.

LAW = GaussianMixture.random(3, 3, seed=4)
DRAWS = LAW.sample(4000, 2)
LEANING = posteriors.mixture(DRAWS, CURVE).leaning(DRAWS, torch.softmax(DRAWS[:, 0], 0))


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_a_fit_denoises_as_well_as_the_law_it_was_fitted_to(t: float):
    at, fit = node(t), posteriors.mixture(DRAWS, CURVE)
    fresh = LAW.sample(4000, 3)
    x = noised(fresh, at)
    scales = torch.full((len(x),), at.alpha), torch.full((len(x),), at.sigma)
    exact = float((fresh - LAW.denoised(x, *scales)).square().mean())
    assert float((fresh - fit.components.posterior(x, at)[2]).square().mean()) < 1.03 * exact
    assert fit.error(fresh, PATH, t) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("local", [posteriors.mixture(DRAWS, CURVE), LEANING], ids=["plain", "leaning"])
@pytest.mark.parametrize("t", [0.3, 0.6])
def test_weighted_candidates_of_a_mixture_have_the_mean_and_covariance_of_its_posterior(
    local: posteriors.Mixture, t: float
):
    """Leaning moves the candidates, and their weights take it back."""
    at, parts = node(t), local.components
    x = noised(DRAWS[:6], at)
    candidates = drawn(local, x, t, 0, 20_000, Noise(3, range(6)))
    assert candidates.log_ratio is not None
    weights = torch.softmax(candidates.log_ratio, dim=1)
    deviations = candidates.deviations
    mean = (weights[:, :, None] * deviations).sum(dim=1)
    second = torch.einsum("nm,nmd,nme->nde", weights, deviations, deviations)
    y, logits, centre = parts.posterior(x, at)
    share = torch.softmax(logits, dim=1)
    inner = parts.basis @ torch.diag_embed(parts.spread(at)) @ parts.basis.mT
    means = parts.means + torch.einsum("kde,nke->nkd", parts.basis, y * parts.gain(at)) - centre[:, None]
    exact = torch.einsum("nk,nkde->nde", share, inner + means[..., None] * means[..., None, :])
    size = float(exact.diagonal(dim1=1, dim2=2).mean())
    assert float(mean.abs().max()) < 0.1 * size**0.5
    torch.testing.assert_close(second, exact, rtol=0.05, atol=0.05 * size)


def test_leaning_candidates_land_where_the_reward_is():
    at = node(0.5)
    x = noised(DRAWS[:50], at)
    plain, leaning = (
        drawn(local, x, 0.5, 0, 50, Noise(1, range(50))).deviations[:, :, 0].mean()
        for local in (posteriors.mixture(DRAWS, CURVE), LEANING)
    )
    assert float(leaning - plain) > 0.02


def test_a_fit_is_trusted_where_it_denoises_like_the_network_only():
    def curve(law: GaussianMixture) -> Calibration:
        return solve(steering.calibrate(law.sample(256, 1), PATH, "x0"), law.network(PATH))

    chosen, why = posteriors.automatic(posteriors.Cloud(DRAWS), PATH, curve(LAW))
    assert isinstance(chosen, posteriors.Mixture), why
    # a network that knows 60 narrow modes sees more than 16 wide ones do
    narrow = GaussianMixture.random(6, 60, seed=1, spread=4.0)
    law = GaussianMixture(narrow.weights, narrow.means, narrow.covariances / 100)
    chosen, why = posteriors.automatic(posteriors.Cloud(law.sample(4000, 2)), PATH, curve(law))
    assert isinstance(chosen, posteriors.Gaussian), why


def test_a_union_of_levels_is_a_sample_of_the_model():
    """Exact draws of two tilts beside the model's own: means under the balance heuristic are the model's."""
    a = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    union = posteriors.Union(posteriors.Cloud(DRAWS), DRAWS @ a, len(DRAWS))
    for tau, seed in ((1.0, 5), (3.0, 6)):
        drawn_at = LAW.tilted(a, 1 / tau).sample(2000, seed)
        union = union.grown(drawn_at, drawn_at @ a, Target(torch.sum, 1 / tau))
    weights = torch.softmax(union.log_prior, 0)
    exact = LAW.sample(200_000, 9).mean(dim=0)
    torch.testing.assert_close(weights @ union.cloud.samples, exact, rtol=0, atol=0.04)
    strong = Target(torch.sum, 1 / 3)
    assert union.effective_size(strong) > 5 * posteriors.Union(
        posteriors.Cloud(DRAWS), DRAWS @ a, len(DRAWS)
    ).effective_size(strong)
    tilted = posteriors.TiltedBank.of(union, strong, torch.float64)
    exact_z = torch.logsumexp(
        LAW.weights.log() + LAW.means @ a * 3 + 4.5 * torch.einsum("d,kde,e->k", a, LAW.covariances, a), 0
    )
    assert tilted.log_z == pytest.approx(float(exact_z), abs=0.15)


LOCALS: dict[str, posteriors.Local] = {
    "gaussian": posteriors.gaussian(CURVE),
    "neighbours": posteriors.neighbours(BANK.float(), CURVE),
    "mixture": posteriors.mixture(BANK.float(), CURVE),
    "leaning": posteriors.mixture(BANK.float(), CURVE).leaning(BANK.float(), torch.softmax(BANK[:, 0], 0)),
}


@pytest.mark.parametrize("name", LOCALS)
@given(n=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_a_samples_particles_have_the_same_bits_in_a_larger_request(name: str, n: int, seed: int):
    local, states = LOCALS[name], noised(BANK.float()[seed : seed + 40], node(0.5))
    large = drawn(local, states, 0.5, 2, 3, Noise(seed, range(40)))
    small = drawn(local, states[:n], 0.5, 2, 3, Noise(seed, range(n)))
    assert torch.equal(small.deviations, large.deviations[:n])
    if large.log_ratio is not None:
        assert small.log_ratio is not None
        assert torch.equal(small.log_ratio, large.log_ratio[:n])


# Tiles.


def test_a_row_of_a_tiled_product_has_the_same_bits_in_a_larger_request():
    g = torch.Generator().manual_seed(0)
    x, matrix = torch.randn(50, 33, generator=g), torch.randn(33, 500, generator=g)

    def function(tile: Tensor) -> tuple[Tensor, Tensor]:
        assert 1 < len(tile) <= ROWS
        return product(tile, matrix), tile.sum(dim=1)

    places = torch.randperm(16)
    assert torch.equal(product(x[:16][places], matrix), product(x[:16], matrix)[places])
    large = by_tiles(function, x)
    assert torch.allclose(large[0], x @ matrix, atol=1e-4)
    for n in (1, 2, 7, 8, 9, 15, 16, 17, 49):
        for part, whole in zip(by_tiles(function, x[:n]), large, strict=True):
            assert torch.equal(part, whole[:n])


def test_a_long_row_alone_is_summed_as_among_others():
    x = torch.randn(3, 100_000, generator=torch.Generator().manual_seed(0))

    def total(tile: Tensor) -> tuple[Tensor]:
        return (tile.sum(dim=1),)

    assert torch.equal(by_tiles(total, x[:1])[0], by_tiles(total, x)[0][:1])


def test_uncalibrated_local_posteriors_are_measured_before_they_are_used():
    plan = steering.plan("ddim", path=PATH, steps=4, prediction="x0")
    doob = steering.Doob(lambda x: x[:, 0], particles=4, posterior=posteriors.neighbours(BANK.float()))
    _, report = steering.run(plan, lambda x, t: 0.5 * x, (3, 6), steer=doob, report=True)
    assert report.setup_rows == 256 * 16
    assert report.network_rows == plan.rows * 3
    doob = steering.Doob(lambda x: x[:, 0], particles=4, posterior=posteriors.Gaussian(Uncalibrated(1.0)))
    assert steering.run(plan, lambda x, t: 0.5 * x, (3, 6), steer=doob, report=True)[1].setup_rows == 0
