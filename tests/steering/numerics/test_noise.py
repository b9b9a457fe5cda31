"""Counter-based noise: the published generator, the right laws, and no dependence on the batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from steering.numerics.noise import MASK, START, Draw, Noise, philox


def words(counter: str, key: str) -> str:
    """Philox4x32-10 of hexadecimal words, as Random123's kat_vectors writes them."""
    c = np.array([int(word, 16) for word in counter.split()], np.uint32)
    low, high = (int(word, 16) for word in key.split())
    return " ".join(f"{int(word):08x}" for word in philox(c, high << 32 | low))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (" ".join(["ffffffff"] * 4), "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, expected: str):
    assert words(counter, key) == expected


def test_the_counter_is_block_draw_stage_and_sample():
    """A promise to keep: the same seed must give the same samples in every later version."""
    seed, sample, stage, draw = 0x0123456789ABCDEF, 7, 3, Draw.PARTICLES
    uniform = Noise(seed, [sample]).uniform(stage, draw, 8)[0]
    normal = Noise(seed, [sample]).normal(stage, draw, (2, 4))[0].flatten()
    for block in (0, 1):
        w = [int(word) for word in philox(np.array([block, draw, stage, sample], np.uint32), seed)]
        assert uniform[4 * block : 4 * block + 4].tolist() == [(word + 0.5) / 2**32 for word in w]
        for pair in (0, 2):
            radius = math.sqrt(-2 * math.log((w[pair] + 1) / 2**32))
            angle = 2 * math.pi * w[pair + 1] / 2**32
            expected = [radius * math.cos(angle), radius * math.sin(angle)]
            assert normal[4 * block + pair : 4 * block + pair + 2].tolist() == pytest.approx(expected, rel=1e-14)


def test_moments_and_law_of_normals():
    x = Noise(1, range(500)).normal(0, Draw.SOLVER, (400,)).flatten()
    n = len(x)
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        spread = math.sqrt(math.prod(range(1, 2 * power, 2)) - moment**2)  # of x^power
        assert float((x**power).mean()) == pytest.approx(moment, abs=5 * spread / math.sqrt(n))
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-4


def test_law_of_uniforms():
    u = Noise(2, range(500)).uniform(0, Draw.SELECT, 400).flatten()
    assert 0 < float(u.min()) < float(u.max()) < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4


def test_whatever_differs_between_two_draws_makes_them_independent():
    n = 40_000
    base = Noise(3, [5]).normal(1, Draw.SOLVER, (n,))[0]
    others = {
        "seed": Noise(4, [5]).normal(1, Draw.SOLVER, (n,)),
        "high word of the seed": Noise(3 + (1 << 32), [5]).normal(1, Draw.SOLVER, (n,)),
        "sample": Noise(3, [6]).normal(1, Draw.SOLVER, (n,)),
        "stage": Noise(3, [5]).normal(2, Draw.SOLVER, (n,)),
        "first state": Noise(3, [5]).normal(START, Draw.SOLVER, (n,)),
        "second draw": Noise(3, [5]).normal(1, Draw.SOLVER + 1, (n,)),
        "purpose": Noise(3, [5]).normal(1, Draw.PARTICLES, (n,)),
        "place": base.roll(1)[None],
    }
    for name, other in others.items():
        assert abs(float((base * other[0]).mean())) < 5 / math.sqrt(n), name
        assert abs(float((base**2 * other[0] ** 2).mean()) - 1) < 5 * math.sqrt(8 / n), name


def test_purposes_do_not_overlap():
    """A solver may draw several times in a stage, up to the first other purpose."""
    assert len(set(Draw)) == len(Draw)
    assert min(draw for draw in Draw if draw is not Draw.SOLVER) >= 64


def test_a_dtype_is_a_rounding():
    noise = Noise(5, range(3))
    exact = noise.normal(0, Draw.SOLVER, (2, 3), torch.float64)
    for dtype in (torch.float32, torch.float16):
        rounded = noise.normal(0, Draw.SOLVER, (2, 3), dtype)
        assert rounded.dtype == dtype
        assert torch.equal(rounded, exact.to(dtype))


def test_a_longer_draw_begins_with_the_shorter():
    noise = Noise(5, range(3))
    assert torch.equal(noise.normal(0, 0, (64, 3))[:, :5], noise.normal(0, 0, (5, 3)))


@given(
    seed=st.integers(0, 2**63 - 1),
    indices=st.lists(st.integers(0, MASK), min_size=1, max_size=40),
    stage=st.integers(0, 1000),
    count=st.integers(1, 70),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_samples_noise_has_the_same_bits_in_any_batch(seed, indices, stage, count, data):
    row = data.draw(st.integers(0, len(indices) - 1))
    together, alone = Noise(seed, indices), Noise(seed, [indices[row]])
    for dtype in (torch.float32, torch.float64):
        batch = together.normal(stage, Draw.SOLVER, (count,), dtype)
        assert torch.equal(batch[row : row + 1], alone.normal(stage, Draw.SOLVER, (count,), dtype))
    assert torch.equal(together.uniform(stage, 0, count)[row : row + 1], alone.uniform(stage, 0, count))


@given(mask=st.lists(st.booleans(), min_size=9, max_size=9))
@settings(max_examples=20, deadline=None)
def test_part_of_the_samples_keep_their_noise(mask: list[bool]):
    noise, chosen = Noise(6, range(10, 19)), torch.tensor(mask)
    expected = noise.normal(2, 0, (5,))[chosen]
    assert torch.equal(noise[chosen].normal(2, 0, (5,)), expected)
    assert torch.equal(noise[chosen.nonzero().squeeze(1)].normal(2, 0, (5,)), expected)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "1", None])
def test_seeds_are_integers_of_63_bits(seed):
    with pytest.raises(ValueError, match=f"seed: expected an integer in .*, got {seed!r}"):
        Noise(seed, [0])
