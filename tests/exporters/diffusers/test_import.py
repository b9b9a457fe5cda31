"""`tiltserve import` on tiny random folders of the real classes: what it writes, and that samples are diffusers'."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from typer.testing import CliRunner

import steering
from deploy.cli import app
from exporters.diffusers.source import read
from exporters.diffusers.writing import Import, Wishes, Written, prepare
from exporters.network import OnnxNetwork, open_session, path_of
from protos.card import Card, load_card
from serving.backends.opening import Opener
from serving.models.folders import Folder
from serving.models.repository import load
from tests import tiny_diffusers as tiny

PROMPTS, NEGATIVE = ["a red heart", "a blue star"], "a cat"
SIDE = 16
"""Pixels of the pictures."""


class Silent:
    def begin(self, name: str) -> None:
        pass

    def done(self, written: Written) -> None:
        pass


class Imported:
    """One folder, imported."""

    def __init__(self, root: Path, name: str, made: Any, **wishes: Any) -> None:
        self.made, self.name, self.folder, self.models = made, name, root / name, root / "models"
        made.save_pretrained(str(self.folder))
        self.plan: Import = prepare(read(self.folder), name, Wishes(**wishes))
        self.written = {each.name: each for each in self.plan.write(self.models, Silent())}

    def card(self, part: str = "") -> Card:
        return load_card(self.models / f"{self.name}{part}" / "card.yaml")

    def graph(self, part: str) -> Path:
        return self.models / f"{self.name}{part}" / "1" / "model.onnx"

    def run(self, part: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        session = open_session(self.graph(part), 1)
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def served(self) -> dict[str, Any]:
        """Every graph as the server loads it, which tries whether its rows are independent."""
        return {name: load(Folder(name, "1", self.models / name), Opener(1)) for name in self.written}

    def tokens(self, prompts: list[str]) -> dict[str, NDArray[np.int64]]:
        """What the pipeline's card makes of prompts."""
        pipeline = self.card().pipeline
        assert pipeline is not None
        assert pipeline.text is not None
        found: dict[str, NDArray[np.int64]] = {}
        for name, spec in pipeline.text.tokenizers.items():
            tokenizer = Tokenizer.from_file(str(self.models / self.name / "1" / spec.file))
            assert tokenizer.truncation is None
            tokenizer.enable_truncation(spec.length)
            rows = [tokenizer.encode(prompt).ids for prompt in prompts]
            found[name] = np.array([[*row, *[spec.pad] * (spec.length - len(row))] for row in rows])
            if spec.mask is not None:
                found[spec.mask] = np.array([[i < len(row) for i in range(spec.length)] for row in rows], np.int64)
        return found

    def encoded(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """Conditions of the sampler."""
        return {name: torch.from_numpy(value) for name, value in self.run(".text", **self.tokens(prompts)).items()}

    def decoded(self, z: torch.Tensor) -> NDArray[np.float32]:
        """Pictures [n, 3, H, W] of -1..1."""
        pipeline = self.card().pipeline
        assert pipeline is not None
        codec = pipeline.decoder
        assert codec is not None
        return self.run(".decoder", latents=(z / codec.scale + codec.shift).numpy())["decoded"]


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Imported]:
    """A folder by the name of its maker; each is exported once."""
    root = tmp_path_factory.mktemp("diffusers")
    wishes: dict[str, dict[str, Any]] = {"flux": {"size": (SIDE,), "tokens": tiny.T5_LENGTH}}

    @cache
    def one(name: str) -> Imported:
        return Imported(root, name, getattr(tiny, name)(), **wishes.get(name, {}))

    return one


def close(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Equal to 1e-3 of the spread."""
    return float(np.abs(got - expected).max()) < 1e-3 * float(expected.std())


def test_stable_diffusion_draws_what_its_pipeline_draws(imported: Callable[[str], Imported]):
    model = imported("stable_diffusion")
    pipeline = model.made
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = pipeline(
        PROMPTS, negative_prompt=[NEGATIVE] * 2, latents=z, num_inference_steps=6, guidance_scale=3.0, height=SIDE,
        width=SIDE, output_type="np",
    ).images  # fmt: skip

    card = model.card(".unet")
    assert card.prediction is not None
    times = [(int(step) + 1) / 1000 for step in pipeline.scheduler.timesteps]
    plan = steering.plan(
        "ddim", path=path_of(card), steps=6, prediction=card.prediction, grid=[*times, 1e-3], end="t_min"
    )
    drawn = steering.run(
        plan,
        OnnxNetwork(model.graph(".unet"), card, threads=1),
        (2, 4, 8, 8),
        condition=model.encoded(PROMPTS),
        null=model.encoded([NEGATIVE]),
        guidance=3.0,
        x_init=z,
    )
    assert isinstance(drawn, torch.Tensor)
    pictures = (model.decoded(drawn) / 2 + 0.5).clip(0, 1).transpose(0, 2, 3, 1)
    assert close(pictures, expected)


@pytest.mark.parametrize("name", ["stable_diffusion", "labelled"])
def test_every_graph_is_served_with_independent_rows(imported: Callable[[str], Imported], name: str):
    model = imported(name)
    for part, loaded in model.served().items():
        assert not loaded.network.caution, part
    assert max(each.error or 0 for each in model.written.values()) < 1e-4


def test_a_pipelines_card_has_its_defaults_and_parts(imported: Callable[[str], Imported]):
    card = imported("stable_diffusion").card()
    assert card.defaults is not None
    assert (card.defaults.steps, card.defaults.guidance) == (50, 7.5)
    pipeline = card.pipeline
    assert pipeline is not None
    assert pipeline.sampler == "stable_diffusion.unet"
    assert pipeline.decoder is not None
    assert (pipeline.decoder.model, pipeline.decoder.scale) == ("stable_diffusion.decoder", 0.18215)
    assert pipeline.text is not None
    assert pipeline.text.tokenizers["input_ids"].length == tiny.CLIP_LENGTH


def test_a_class_conditional_network_of_pictures_is_one_sampler(imported: Callable[[str], Imported]):
    model = imported("labelled")
    assert [*model.written] == ["labelled"]
    card = model.card()
    assert (card.event_shape, card.conditions["class_labels"].max) == ((3, 8, 8), 6)


def test_the_encoder_gives_the_mode_and_the_decoder_takes_it_back(imported: Callable[[str], Imported]):
    model = imported("stable_diffusion")
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = model.made.vae.encode(pixels).latent_dist.mean.numpy()
    assert close(model.run(".encoder", pixels=pixels.numpy())["encoded"], expected)


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["import", *map(str, arguments)])
    return result.exit_code, result.output.strip()


def test_a_dry_run_writes_nothing(imported: Callable[[str], Imported], tmp_path: Path):
    code, text = command(imported("stable_diffusion").folder, tmp_path / "sd", "--dry-run")
    assert code == 0
    assert "sd.unet: UNet2DConditionModel, samples 4x8x8, 64.8 k parameters" in text
    assert list(tmp_path.iterdir()) == []
