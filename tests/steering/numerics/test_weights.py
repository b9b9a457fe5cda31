"""Importance weights, and the checks that rewards must pass."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.errors import SteeringError
from steering.numerics.weights import (
    checked_rewards,
    effective_size,
    flat,
    log_weights,
    softmax,
    softmax_and_log_sum,
)

INF = math.inf


def weights(rewards: list[float], beta: float = 1.0) -> list[float]:
    return softmax(log_weights(torch.tensor(rewards, dtype=torch.float64), beta)).tolist()


def test_weights_are_normalised_exponentials():
    r, beta = [0.3, -1.0, 2.0], 0.7
    total = sum(math.exp(x / beta) for x in r)
    assert weights(r, beta) == pytest.approx([math.exp(x / beta) / total for x in r], rel=1e-14)


def test_only_differences_of_rewards_matter_however_large_they_are():
    assert weights([1e8, 1e8 + 1, 1e8 - 1]) == pytest.approx(weights([0, 1, -1]), rel=1e-7)
    assert weights([-1e300, 0.0]) == [0, 1]


def test_minus_infinity_is_weight_zero():
    assert weights([-INF, 0.0, -INF, 0.0]) == [0, 0.5, 0, 0.5]
    assert weights([-INF, -5.0]) == [0, 1]


def test_the_log_of_the_sum_comes_with_the_weights():
    logits = torch.tensor([[0.0, 0.0, -INF], [-1e4, -1e4 + 3, -2e4], [1e4, 2.0, 3.0]])
    found, log_sum = softmax_and_log_sum(logits)
    assert torch.equal(found, softmax(logits))
    torch.testing.assert_close(log_sum, torch.logsumexp(logits, dim=1))


def test_a_row_without_any_hit_is_flat():
    both = torch.tensor([[-INF, -INF], [-INF, 1.0]])
    assert softmax(log_weights(both, 0.1)).tolist() == [[0.5, 0.5], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [1e-320, 1e-50, 1e-3, 1e3, 1e300])
def test_no_temperature_makes_nan(beta: float, dtype: torch.dtype):
    found = softmax(log_weights(torch.tensor([0.0, 1.0, -INF, 1.0], dtype=dtype), beta))
    assert float(found.sum()) == pytest.approx(1)
    assert found[2] == 0
    if beta < 1e-3:
        assert found.tolist() == [0, 0.5, 0, 0.5]


def test_effective_size_counts_equal_weights():
    for k in (1, 2, 32):
        w = torch.zeros(40)
        w[:k] = 1 / k
        assert float(effective_size(w)) == pytest.approx(k)


def test_flat_means_all_equal():
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0 + 1e-6], [-INF, -INF, -INF], [0.0, -INF, 0.0]])
    assert flat(rows).tolist() == [True, False, True, False]


values = st.floats(-1e4, 1e4, width=32) | st.just(-INF)


@given(data=st.data(), particles=st.sampled_from([2, 6, 16, 33, 64]), n=st.integers(1, 20), beta=st.floats(1e-3, 1e3))
@settings(max_examples=80, deadline=None)
def test_a_rows_weights_have_the_same_bits_in_any_batch(data, particles: int, n: int, beta: float):
    seed, row = data.draw(st.integers(0, 999)), data.draw(st.integers(0, n - 1))
    rewards = torch.randn(n, particles, generator=torch.Generator().manual_seed(seed)) * 3
    rewards[row] = torch.tensor(data.draw(st.lists(values, min_size=particles, max_size=particles)))

    def functions(r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w = softmax(log_weights(r, beta))
        return w, effective_size(w), flat(r)

    for batch, alone in zip(functions(rewards), functions(rewards[row : row + 1].clone()), strict=True):
        assert torch.equal(batch[row : row + 1], alone)


@given(rewards=st.lists(values, min_size=1, max_size=40), beta=st.floats(1e-3, 1e3))
@settings(max_examples=80, deadline=None)
def test_weights_are_a_probability(rewards: list[float], beta: float):
    w = softmax(log_weights(torch.tensor(rewards), beta))
    assert bool((w >= 0).all())
    assert float(w.sum()) == pytest.approx(1, rel=1e-5)
    assert 1 - 1e-5 <= float(effective_size(w)) <= len(rewards) * (1 + 1e-5)
    best = max(rewards)
    if best > -INF:
        assert bool((w[[i for i, r in enumerate(rewards) if r == -INF]] == 0).all())
        assert float(w[rewards.index(best)]) == pytest.approx(float(w.max()))


def test_good_rewards_pass_through():
    rewards = torch.tensor([0.0, -INF, 3.5])
    assert checked_rewards(rewards, 3, "score") is rewards


@pytest.mark.parametrize(
    ("rewards", "complaint"),
    [
        ([1.0, 2.0, 3.0], "'score': expected a tensor of shape \\[3\\], got list"),
        (None, "'score': expected a tensor of shape \\[3\\], got NoneType"),
        (torch.zeros(2), "'score': expected shape \\[3\\], got \\[2\\]"),
        (torch.zeros(3, 1), "'score': expected shape \\[3\\], got \\[3, 1\\]"),
        (torch.tensor(0.0), "'score': expected shape \\[3\\], got \\[\\]"),
        (torch.tensor([0.0, math.nan, 0.0]), "'score': expected finite values or -inf, got NaN"),
        (torch.tensor([0.0, INF, 0.0]), "'score': expected finite values or -inf, got \\+inf"),
    ],
)
def test_bad_rewards_are_named(rewards, complaint: str):
    with pytest.raises(SteeringError, match=complaint):
        checked_rewards(rewards, 3, "score")
