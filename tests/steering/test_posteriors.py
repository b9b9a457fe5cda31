"""Posteriors that need no network: a bank's weights, and the particles of the local ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import steering
from steering import paths, posteriors
from steering.calibration import Calibration, Uncalibrated
from steering.noise import Noise
from steering.plan import Node
from steering.posteriors.neighbours import NEIGHBOURHOOD, WIDENING, draw_indices, tempered
from steering.targets import Target
from steering.tiles import by_tiles
from steering.weights import effective_size

PATH = paths.vp_cosine()
CURVE = Calibration((0.001, 0.5, 0.99), (0.0001, 0.1, 0.4))
HALF = Target(torch.sum, beta=0.5)  # only its weights matter here
BANK = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def node(t: float) -> Node:
    return Node(t, float(PATH.alpha(t)), float(PATH.sigma(t)), float(PATH.log_snr(t)))


def noised(samples: Tensor, at: Node) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return at.alpha * samples + at.sigma * torch.randn(samples.shape, generator=g, dtype=samples.dtype)


# The bank.


def test_a_banks_weights_are_the_posterior_of_its_samples():
    at = node(0.4)
    x = noised(BANK[:5], at)
    logits = posteriors.bank(BANK).cloud.points(torch.float64).logits(x, at)
    exact = -((x[:, None] - at.alpha * BANK) ** 2).sum(dim=2) / (2 * at.sigma**2)
    torch.testing.assert_close(torch.softmax(logits, 1), torch.softmax(exact, 1), rtol=1e-9, atol=1e-15)


def test_the_start_shift_is_the_rewarded_mean_less_the_mean():
    rewards = 2 * BANK[:, 0]
    tilted = posteriors.bank(BANK).tilted(rewards, HALF, torch.float64)
    weights = torch.softmax(rewards / 0.5, 0)
    torch.testing.assert_close(tilted.start_shift(), weights @ BANK - BANK.mean(dim=0), rtol=1e-10, atol=1e-12)
    assert tilted.effective_size == pytest.approx(1 / float((weights**2).sum()))
    assert not tilted.flat


def test_a_flat_bank_says_nothing_and_an_empty_one_says_so():
    flat = posteriors.bank(BANK).tilted(torch.full((1000,), 0.3), HALF, torch.float32)
    assert flat.flat
    assert not flat.no_hit
    assert bool((flat.start_shift() == 0).all())
    assert flat.effective_size == pytest.approx(1000, rel=1e-4)
    blind = posteriors.bank(BANK).tilted(torch.full((1000,), -math.inf), HALF, torch.float32)
    assert blind.no_hit
    assert blind.effective_size == 0
    assert bool((blind.start_shift() == 0).all())


def test_near_the_data_one_sample_has_all_the_weight_and_far_away_all_have_the_same():
    tilted = posteriors.bank(BANK).tilted(torch.zeros(1000), HALF, torch.float64)
    near, far = node(0.005), node(PATH.t_max)
    assert float(tilted.correction(noised(BANK[:5], near), near)[1].max()) < 1.1
    assert float(tilted.correction(noised(BANK[:5], far), far)[1].min()) > 900


# The Gaussian.


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_gaussian_particles_have_the_calibrated_variance(t: float):
    deviations = posteriors.gaussian(CURVE).deviations(torch.zeros(50, 20), PATH, node(t), 3, 40, Noise(0, range(50)))
    assert deviations.shape == (50, 40, 20)
    assert deviations.dtype == torch.float32
    assert float(deviations.double().var()) == pytest.approx(CURVE.variance(PATH, t), rel=5 * (2 / 40_000) ** 0.5)


def test_gaussian_particles_differ_between_stages_samples_and_pairs():
    local, noise = posteriors.gaussian(CURVE), Noise(0, range(2))
    first, second = (local.deviations(torch.zeros(2, 3), PATH, node(0.5), stage, 2, noise) for stage in (0, 1))
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
    return local.deviations(states, PATH, at, 0, 4000, Noise(0, range(len(states))))


@pytest.mark.parametrize("t", [0.3, 0.6])
def test_neighbours_are_centred_and_have_the_wanted_variance_where_the_bank_has_as_much(t: float):
    at = node(t)
    states = noised(BANK[:4], at)
    weights = tempered(posteriors.bank(BANK).cloud.points(torch.float64).logits(states, at), NEIGHBOURHOOD)
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


@pytest.mark.parametrize("name", ["gaussian", "neighbours"])
@given(n=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_a_samples_particles_have_the_same_bits_in_a_larger_request(name: str, n: int, seed: int):
    samples, at = BANK.float(), node(0.5)
    local = posteriors.gaussian(CURVE) if name == "gaussian" else posteriors.neighbours(samples, CURVE)
    states = noised(samples[seed : seed + 40], at)
    large = local.deviations(states, PATH, at, 2, 3, Noise(seed, range(40)))
    assert torch.equal(local.deviations(states[:n], PATH, at, 2, 3, Noise(seed, range(n))), large[:n])


# Tiles.


def test_a_row_of_a_tiled_product_has_the_same_bits_in_a_larger_request():
    g = torch.Generator().manual_seed(0)
    x, matrix = torch.randn(50, 33, generator=g), torch.randn(33, 500, generator=g)

    def product(tile: Tensor) -> tuple[Tensor, Tensor]:
        assert len(tile) == 16
        return tile @ matrix, tile.sum(dim=1)

    large = by_tiles(product, x)
    for n in (1, 2, 15, 16, 17, 49):
        for part, whole in zip(by_tiles(product, x[:n]), large, strict=True):
            assert torch.equal(part, whole[:n])


def test_uncalibrated_local_posteriors_are_measured_before_they_are_used():
    plan = steering.plan("ddim", path=PATH, steps=4, prediction="x0")
    doob = steering.Doob(lambda x: x[:, 0], particles=4, posterior=posteriors.neighbours(BANK.float()))
    _, report = steering.run(plan, lambda x, t: 0.5 * x, (3, 6), steer=doob, report=True)
    assert report.setup_rows == 256 * 16
    assert report.network_rows == plan.rows * 3
    doob = steering.Doob(lambda x: x[:, 0], particles=4, posterior=posteriors.Gaussian(Uncalibrated(1.0)))
    assert steering.run(plan, lambda x, t: 0.5 * x, (3, 6), steer=doob, report=True)[1].setup_rows == 0
