"""Hashes, paths, and latents there and back, by the clients of threads and of asyncio."""

import asyncio
import hashlib
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from steering.flow.interpolate import spherical as reference
from tests.serving.live import MODE, Live, near
from tiltserve import AsyncClient, Client, InvalidArgument, Pair, Samples, spherical

PLAIN: dict[str, Any] = {"steps": 6, "seed": 1, "deterministic": True}


def test_answers_have_the_hash_of_their_samples(client: Client):
    drawn = client.sample("rings", 4, **PLAIN)
    assert drawn.samples_sha256 == hashlib.sha256(drawn.samples.tobytes()).hexdigest()
    assert client.sample("rings", 4, **{**PLAIN, "deterministic": False}).samples_sha256 is None


def test_a_path_is_streamed_pair_by_pair(client: Client):
    drawn = client.sample("rings", 3, **PLAIN)
    *pairs, last = client.stream("rings", 3, trajectory=True, steps=6, seed=1)
    assert isinstance(last, Samples)
    assert last.samples_sha256 == drawn.samples_sha256
    assert last.stages == 6
    assert [(each.stage, each.stages) for each in pairs] == [(i, 6) for i in range(1, 7)]
    for before, after in itertools.pairwise(pairs):
        assert isinstance(before, Pair)
        assert isinstance(after, Pair)
        assert (before.t[1], before.rho[1], before.alpha[1]) == (after.t[0], after.rho[0], after.alpha[0])
        assert np.array_equal(before.states[:, 1], after.states[:, 0])
        assert before.rho[0] > before.rho[1]
    assert isinstance(pairs[-1], Pair)
    assert np.array_equal(pairs[-1].states[:, 1], drawn.samples)
    seen: list[object] = []
    watched = client.sample("rings", 3, trajectory=True, on_preview=seen.append, progress=True, steps=6, seed=1)
    assert watched.samples_sha256 == drawn.samples_sha256
    assert [type(each) for each in seen] == [Pair] * 6
    with pytest.raises(InvalidArgument, match="trajectory: expected on_preview= beside it, or stream, got none"):
        client.sample("rings", 3, trajectory=True)


@pytest.mark.parametrize(("steps", "left"), [(20, 5e-3), (60, 2e-4)])
def test_data_come_back_from_their_latents(client: Client, steps: int, left: float):
    """Within the solver's error, which falls as the second power of the steps, or faster."""
    x = client.sample("stripes", 6, label=2, seed=3).samples
    z = client.encode("stripes", x, label=2, steps=steps)
    assert z.samples.shape == x.shape
    assert z.samples_sha256 == hashlib.sha256(z.samples.tobytes()).hexdigest()
    back = client.decode("stripes", z, label=2, steps=steps)
    assert np.abs(back.samples - x).max() < left
    again = client.decode("stripes", z.samples, label=2, steps=steps)
    assert again.samples_sha256 == back.samples_sha256


def test_decoding_goes_on_with_the_solver_of_encoding(client: Client):
    x = client.sample("rings", 4, seed=3).samples
    z = client.encode("rings", x, solver="ddim", steps=8)
    assert client.decode("rings", z, steps=8).solver == "ddim"
    assert client.decode("rings", z, steps=8, solver="heun").solver == "heun"
    assert client.decode("rings", z.samples, steps=8).solver == "dpmpp_2m"
    assert client.encode("rings", x).network_rows == 4 * 60


def test_what_lies_between_can_be_steered(client: Client):
    x = client.sample("rings", 2, seed=3).samples
    z = client.encode("rings", x).samples
    middle = spherical(z[:1], z[1:], 0.5)
    plain = client.decode("rings", middle)
    steered = client.decode("rings", middle, reward="nearness", mode=MODE, beta=0.05, particles=16)
    assert near(steered.samples) == 1.0
    assert steered.rewards is not None
    assert steered.rewards[0] > client.score("nearness", plain.samples, mode=MODE)[0]
    repeated = client.decode("rings", middle, reward="nearness", mode=MODE, beta=0.05, particles=16)
    assert repeated.samples_sha256 == steered.samples_sha256


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_great_circles_are_those_of_the_library(weight: float):
    z = np.random.default_rng(0).normal(size=(2, 5, 1, 4, 4)).astype(np.float32)
    z[1, 3], z[1, 4] = z[0, 3], -z[0, 4]  # the same, and the opposite
    expected = reference(torch.from_numpy(z[0]), torch.from_numpy(z[1]), weight).numpy()
    assert np.allclose(spherical(z[0], z[1], weight), expected, atol=1e-6)
    assert np.isfinite(spherical(z[0] * 0, z[1], weight)).all()


def test_bad_latents_are_refused(client: Client):
    with pytest.raises(InvalidArgument, match=r"expected latents \[n, \*event\] of one shape, got \[2, 3\], \[2, 4\]"):
        spherical(np.zeros((2, 3)), np.zeros((2, 4)), 0.5)
    with pytest.raises(InvalidArgument, match=r"x: expected an array \[n, \*event\], got \[2\]"):
        client.encode("rings", np.zeros(2))
    with pytest.raises(InvalidArgument, match="input 'x_init': expected finite numbers, got NaN or infinity"):
        client.encode("rings", np.full((1, 2), np.nan))
    with pytest.raises(InvalidArgument, match=r"input 'x_init': expected FP32 \[1, 2\] .* got float32 \[1, 3\]"):
        client.decode("rings", np.zeros((1, 3)))
    with pytest.raises(InvalidArgument, match="a plan in reverse cannot be steered: expected no steering"):
        client.encode("rings", np.zeros((1, 2)), reward="nearness", mode=MODE)
    with pytest.raises(InvalidArgument, match="solver 'euler_ancestral' cannot run in reverse, from data to noise"):
        client.encode("rings", np.zeros((1, 2)), solver="euler_ancestral")


def test_a_start_says_how_many_samples_there_are(client: Client):
    assert client.sample("rings", x_init=np.ones((3, 2)), **PLAIN).samples.shape == (3, 2)


def test_asyncio_has_the_same(served: Live):
    async def run() -> None:
        async with AsyncClient(served.address, timeout=60) as client:
            drawn = await client.sample("rings", 2, **PLAIN)
            z = await client.encode("rings", drawn.samples)
            back = await client.decode("rings", z)
            assert np.abs(back.samples - drawn.samples).max() < 0.1
            async with client.stream("rings", 2, trajectory=True, steps=4) as stream:
                assert [type(each) async for each in stream] == [Pair] * 4 + [Samples]

    asyncio.run(run())
