"""Pictures of other sizes than a pipeline's own, of a folder imported with `--free-size` and served."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from exporters.diffusers.source import FolderError, read
from exporters.diffusers.writing import Wishes, prepare
from tests import tiny_diffusers as tiny
from tests.exporters.diffusers.imported import NEGATIVE, PROMPTS, Imported
from tests.serving.live import Live, running, until
from tiltserve import Client, InvalidArgument

HEIGHT, WIDTH = 24, 16


@pytest.fixture(scope="module")
def served(imported: Callable[[str], Imported]) -> Iterator[Live]:
    with running(imported("stable_diffusion").models) as live:
        yield live


@pytest.fixture(scope="module")
def client(served: Live) -> Iterator[Client]:
    with Client(served.address) as client:
        yield client


def latents(height: int, width: int) -> NDArray[np.float32]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(2, 4, height // 2, width // 2, generator=g).numpy()


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (8, 40), (16, 16)])
def test_they_are_those_of_diffusers(imported: Callable[[str], Imported], client: Client, height: int, width: int):
    pipeline, z = imported("stable_diffusion").made, latents(height, width)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPTS, negative_prompt=[NEGATIVE] * 2, latents=torch.from_numpy(z), num_inference_steps=6,
        guidance_scale=3.0, height=height, width=width, output_type="np",
    ).images  # fmt: skip
    ours = client.sample(
        "stable_diffusion", 2, prompt=PROMPTS, negative_prompt=NEGATIVE, x_init=z, steps=6, guidance=3.0,
        height=height, width=width,
    )  # fmt: skip
    assert ours.images.shape == (2, height, width, 3)
    off = np.abs(ours.images.astype(float) - 255 * theirs)
    assert off.max() < 0.5 + 255e-3 * theirs.std()


def test_they_are_the_same_in_any_company(client: Client):
    """Alone, among others, and beside requests of other sizes, with which they share no call."""

    def drawn(n: int, height: int) -> NDArray[np.uint8]:
        how: dict[str, Any] = {"prompt": "a red heart", "steps": 4, "seed": 1, "width": WIDTH}
        return client.sample("stable_diffusion", n, height=height, **how).images

    alone = drawn(1, HEIGHT)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(drawn, (5, 3, 2), (HEIGHT, 16, 32)))
    assert [each.shape[:3] for each in found] == [(5, HEIGHT, WIDTH), (3, 16, WIDTH), (2, 32, WIDTH)]
    assert np.array_equal(found[0][:1], alone)
    assert np.array_equal(found[1], client.sample("stable_diffusion", 3, prompt="a red heart", steps=4, seed=1).images)


def test_a_picture_of_another_size_is_steered_and_filled_in(client: Client):
    """By draws of its own law, whoever makes them."""
    bright = np.ones((3, HEIGHT, WIDTH), np.float32)
    how: dict[str, Any] = {"prompt": "a cat", "seed": 1, "steps": 4, "guidance": 1.0, "height": HEIGHT}
    asked: dict[str, Any] = {**how, "reward": "linear", "reward_args": {"direction": bright}, "beta": 20.0}
    plain = client.sample("stable_diffusion", 4, steering="none", **asked)
    steered = client.sample("stable_diffusion", 4, residual_draws=16, posterior="residuals", **asked)
    assert steered.images.shape == (4, HEIGHT, WIDTH, 3)
    assert steered.images.mean() > plain.images.mean()

    def later() -> bool:
        """Made in the background, by a sampler of that size."""
        soon = client.sample("stable_diffusion", 1, residual_wait=False, residual_draws=17, **asked)
        return not any("not there yet" in each for each in soon.warnings)

    until(later)
    picture = np.full((1, HEIGHT, WIDTH, 3), 200, np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert client.sample("stable_diffusion", 1, image=picture, mask=mask, **how).images.shape == picture.shape


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"height": 18}, "height: expected a multiple of 4 for pictures of 'stable_diffusion', got 18"),
        ({"width": 0}, "width: expected a multiple of 4 for pictures of 'stable_diffusion', got 0"),
        ({"width": 16.5}, "width: expected a multiple of 4 for pictures of 'stable_diffusion', got 16.5"),
        ({"height": 10**9}, "expected at most 1024 pixels in pictures of 'stable_diffusion', got 1000000000 x 16"),
        ({"height": 24, "x_init": latents(16, 16)[:1]}, "input 'x_init': expected FP32 [1, 4, 12, 8]"),
        ({"height": 24, "image": np.zeros((1, 16, 16, 3), np.uint8), "strength": 0.5}, "expected UINT8 [1, 24, 16, 3]"),
    ],
)
def test_what_is_refused(client: Client, sizes: dict[str, Any], why: str):
    with pytest.raises(InvalidArgument) as refusal:
        client.sample("stable_diffusion", 1, prompt="a", steps=2, **sizes)
    assert why in str(refusal.value)


def test_graphs_that_know_positions_are_of_one_size(saved: Callable[[str], tuple[Path, Any]]):
    with pytest.raises(FolderError, match="--free-size: expected one of UNet2DModel, UNet2DConditionModel, got Flux"):
        prepare(read(saved("flux")[0]), "flux", Wishes(size=(16,), tokens=tiny.T5_LENGTH, free_size=True))
