"""Built-in rewards against their definitions, and events against the laws they leave."""

import math

import pytest
import torch

import steering
from steering import paths, posteriors
from steering.errors import SteeringError
from steering.problems import GaussianMixture, energy_distance
from steering.targets import rewards

X = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
A, B = X[0], X[1]


def test_scores_are_their_formulas():
    mask = torch.zeros(3, 4, dtype=torch.float64)
    mask[:, :2] = 1
    for row, value in zip(X, rewards.masked_match(X, mask, A, 3.0), strict=True):
        assert float(value) == pytest.approx(-1.5 * float(((row - A)[:, :2] ** 2).sum()))
    for row, value in zip(X, rewards.norm_band(X, A, 4.0, 5.0), strict=True):
        norm = float((row - A).norm())
        assert float(value) == pytest.approx(-max(4.0 - norm, norm - 5.0, 0.0))
    assert torch.equal(rewards.half_space(X, A, 1.0), rewards.event(rewards.linear(X, A), 1.0))
    inside = (X * A).sum((1, 2)) >= 1.0
    assert torch.equal(rewards.half_space(X, A, 1.0) == 0, inside)
    assert bool(inside.any())
    assert not bool(inside.all())


def test_a_row_scores_the_same_bits_in_any_batch():
    x = X.float()
    for score in (
        lambda x: rewards.masked_match(x, B.float(), A.float()),
        lambda x: rewards.norm_band(x, A.float(), 1, 2),
    ):
        whole = score(x)
        assert all(torch.equal(score(x[i : i + 3]), whole[i : i + 3]) for i in range(48))


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (-3.0, -1.0), (1.0, math.nan)])
def test_an_empty_band_is_refused(low: float, high: float):
    with pytest.raises(SteeringError, match="norm_band: expected low <= high"):
        rewards.norm_band(X, 0.0, low, high)


def test_a_norm_band_leaves_the_law_inside_it():
    """A correlated mixture within a ring that holds a sixth of it: against samples by rejection."""
    law, path = GaussianMixture.random(2, 3, 2), paths.vp_cosine()
    radius = law.sample(20_000, 2).norm(dim=1)
    low, high = float(radius.quantile(0.8)), float(radius.quantile(0.96))
    exact = law.sample(30_000, 3)
    exact = exact[(exact.norm(dim=1) >= low) & (exact.norm(dim=1) <= high)]
    plan = steering.plan("dpmpp_2m", path=path, steps=20, prediction="x0")
    network = law.network(path)
    own = posteriors.bank(law.sample(4096, 4).float())
    score = rewards.BUILT_IN["norm_band"]
    tilt = steering.Doob(lambda x: score.score(x, 0.0, low, high), threshold=0.0, posterior=own)
    x, report = steering.run(plan, network, (500, 2), 5, tilt, tile=None, report=True)
    free = steering.run(plan, network, (500, 2), 5, tile=None)
    assert score.threshold == 0.0
    assert report.rewards is not None
    assert float((report.rewards == 0).double().mean()) > 0.9
    assert energy_distance(x, exact) < 0.04 * energy_distance(free, exact)
