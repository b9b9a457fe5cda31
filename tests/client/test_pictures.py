"""Pictures of a pipeline, by the client, in diffusers' words and by the command."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from deploy.cli import app
from tests.serving.live import Live
from tiltserve import AsyncClient, Client, InvalidArgument, Preview, Samples

HEART: dict[str, Any] = {"prompt": "a red heart", "seed": 1}
PHOTO = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
UPPER = np.arange(8)[:, None].repeat(8, 1) < 4


@pytest.fixture
def painter(pictured: Live) -> Iterator[Client]:
    with Client(pictured.address, timeout=60) as client:
        yield client


def test_pictures_of_prompts(painter: Client):
    drawn = painter.sample("tiny", n=4, negative_prompt="blue", latents=True, **HEART)
    assert drawn.images.dtype == np.uint8
    assert drawn.images.shape == (4, 8, 8, 3)
    assert [each.size for each in drawn.pil()] == [(8, 8)] * 4
    assert drawn.latents is not None
    assert drawn.latents.shape == (4, 4, 4, 4)
    assert drawn.rewards is None
    several = painter.sample("tiny", prompt=["a red heart", "the blue sky"], negative_prompt="blue", seed=1)
    assert (several.images[0] == drawn.images[0]).all()
    assert (several.images[1] != drawn.images[1]).any()
    files = painter.sample("tiny", n=4, negative_prompt="blue", output_format="png", **HEART)
    assert files.samples[0].startswith(b"\x89PNG")
    assert (files.images == drawn.images).all()


def test_pictures_toward_a_reward(painter: Client):
    toward: dict[str, Any] = {"reward": "redness", "decode_for_reward": "full", "steering": "best_of", "chains": 8}
    plain, drawn = painter.sample("tiny", n=8, **HEART), painter.sample("tiny", n=8, **toward, **HEART)
    assert drawn.rewards is not None
    assert drawn.rewards.mean() > painter.score("redness", as_floats(plain)).mean()
    scored = painter.sample("tiny", n=2, score=lambda x: x[:, 0].mean(axis=(1, 2)), posterior="gaussian", **HEART)
    assert scored.images.shape == (2, 8, 8, 3)
    with pytest.raises(InvalidArgument, match="latents: expected none beside score"):
        painter.sample("tiny", n=2, score=lambda x: x[:, 0].mean(axis=(1, 2)), latents=True, **HEART)


def as_floats(drawn: Samples) -> np.ndarray[Any, Any]:
    return np.moveaxis(drawn.images, -1, 1).astype(np.float32) / 127.5 - 1


def test_pictures_that_begin_with_others(painter: Client):
    changed = painter.sample("tiny", image=PHOTO, strength=0.4, n=2, **HEART)
    assert changed.network_rows == 2 * 2 * 2  # two of five steps, with guidance
    same = painter.sample("tiny", image=[Image.fromarray(PHOTO)] * 2, strength=0.4, **HEART)
    assert (same.images == changed.images).all()
    for model in ("tiny", "filling"):
        filled = painter.sample(model, image=PHOTO, mask=UPPER, n=2, **HEART)
        assert (
            painter.sample(model, image=PHOTO, mask=Image.fromarray(UPPER), n=2, **HEART).images == filled.images
        ).all()
    with pytest.raises(
        InvalidArgument, match=r"input 'image': expected UINT8 \[1, 8, 8, 3\], got (?i:uint8) \[1, 4, 8, 3\]"
    ):
        painter.sample("tiny", image=PHOTO[:4], strength=0.5, **HEART)


def test_previews_are_pictures(painter: Client):
    *previews, last = painter.stream("tiny", n=2, preview_every=2, **HEART)
    assert isinstance(last, Samples)
    assert (last.images == painter.sample("tiny", n=2, **HEART).images).all()
    assert [each.stage for each in previews] == sorted({each.stage for each in previews})
    for each in previews:
        assert isinstance(each, Preview)
        assert each.images.dtype == np.uint8
        assert each.images.shape == (2, 8, 8, 3)
    with_a_bar = painter.sample("tiny", n=2, progress=True, **HEART)
    assert (with_a_bar.images == last.images).all()
    assert with_a_bar.parameters["decode_rows"] == 2  # nothing is decoded for it

    async def drawn() -> Samples:
        async with AsyncClient(painter.address.target) as client:
            return await client.sample("tiny", n=2, **HEART)

    assert (asyncio.run(drawn()).images == last.images).all()


def test_in_place_of_a_pipeline_of_diffusers(painter: Client):
    pipe = painter.pipeline("tiny", solver="ddim").to("cuda")
    generator = torch.Generator().manual_seed(1)
    out = pipe("a red heart", num_inference_steps=5, guidance_scale=3, generator=generator, height=8, width=8)
    expected = painter.sample("tiny", steps=5, guidance=3, solver="ddim", **HEART)
    assert (np.asarray(out.images[0]) == expected.images[0]).all()
    assert pipe("a red heart", generator=generator).samples.seed != 1
    assert pipe(["a", "b"], num_images_per_prompt=2, output_type="np").images.shape == (4, 8, 8, 3)
    assert pipe("a", output_type="latent", guidance_scale=0).images.shape == (1, 4, 4, 4)
    changed = pipe("a red heart", image=PHOTO, generator=1).samples
    assert (changed.images == painter.sample("tiny", image=PHOTO, strength=0.8, solver="ddim", **HEART).images).all()
    with pytest.raises(InvalidArgument, match="height: expected 8, which pictures of this model have, got 16"):
        pipe("a", height=16)
    with pytest.raises(InvalidArgument, match="unknown parameter 'num_steps', did you mean"):
        pipe("a", num_steps=3)

    async def drawn() -> Any:
        async with AsyncClient(painter.address.target) as client:
            return await client.pipeline("tiny")("a red heart", generator=1)

    assert asyncio.run(drawn()).images[0].size == (8, 8)


def run(pictured: Live, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["sample", "tiny", "--address", pictured.address, *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_the_command(pictured: Live, painter: Client, tmp_path: Path):
    expected = painter.sample("tiny", n=3, negative_prompt="blue", **HEART).images
    what = ["--prompt", "a red heart", "--negative-prompt", "blue", "-n", "3", "--seed", "1"]
    run(pictured, *what, "--out", str(tmp_path / "hearts"))
    files = sorted((tmp_path / "hearts").iterdir())
    assert [each.name for each in files] == [f"tiny-1-00{number}.png" for number in range(3)]
    assert all((np.asarray(Image.open(file)) == image).all() for file, image in zip(files, expected, strict=True))
    run(pictured, *what, "--parameter", "output_format=png", "--out", str(tmp_path / "hearts"))
    run(pictured, *what, "--out", str(tmp_path / "all.png"))
    assert Image.open(tmp_path / "all.png").size == (2 * 9 + 1, 2 * 9 + 1)
    run(pictured, "--prompt", "a", "--prompt", "b", "--seed", "1", "--out", str(tmp_path / "two"))
    assert len(list((tmp_path / "two").iterdir())) == 2
    photo, mask = ["--image", str(tmp_path / "photo.png")], ["--mask", str(tmp_path / "mask.png")]
    Image.fromarray(PHOTO).save(photo[1])
    Image.fromarray(UPPER).save(mask[1])
    run(pictured, *what[:2], *photo, "--strength", "0.4", "--seed", "1", "--out", str(tmp_path / "changed.png"))
    changed = painter.sample("tiny", image=PHOTO, strength=0.4, **HEART)
    assert (np.asarray(Image.open(tmp_path / "changed.png")) == changed.images[0]).all()
    run(pictured, *what[:2], *photo, *mask, "--out", str(tmp_path / "filled.npz"))
    assert np.load(tmp_path / "filled.npz")["samples"].shape == (1, 8, 8, 3)
    assert "--image: expected a picture, got" in run(pictured, *what, "--image", str(tmp_path / "no.png"), code=2)
    assert "--samples: expected 2, one for each prompt, got 3" in run(
        pictured, "--prompt", "a", "--prompt", "b", "-n", "3", code=2
    )
    assert "expected a parameter strength beside it" in run(pictured, *what, *photo, code=2)
