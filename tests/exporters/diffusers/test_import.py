"""`tiltserve import` on tiny random folders of the real classes: what it writes, and that samples are diffusers'."""

import importlib
import json
import shutil
from collections.abc import Callable, Collection
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

diffusers: Any = importlib.import_module("diffusers")  # its classes are made on demand, out of a type checker's sight

PROMPTS, NEGATIVE = ["a red heart", "a blue star"], "a cat"
SIDE = 16
"""Pixels of the pictures."""
AUTOENCODER = ("decoder", "encoder")
"""Of Stable Diffusion's folder; the others have the same weights, with their own scale and shift in the card."""


class Silent:
    def begin(self, name: str) -> None:
        pass

    def done(self, written: Written) -> None:
        pass


class Imported:
    """One folder, imported; `without` are parts that are not exported, though the pipeline's card names them."""

    def __init__(self, folder: Path, made: Any, without: Collection[str] = (), **wishes: Any) -> None:
        name = folder.name
        self.made, self.name, self.folder, self.models = made, name, folder, folder.parent / "models"
        self.plan: Import = prepare(read(self.folder), name, Wishes(**wishes))
        self.plan.jobs = [job for job in self.plan.jobs if job.part not in without]
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

    def decoded(self, z: torch.Tensor, graph: "Imported") -> NDArray[np.float32]:
        """Pictures [n, 3, H, W] of -1..1, by the decoder that `graph` has."""
        pipeline = self.card().pipeline
        assert pipeline is not None
        codec = pipeline.decoder
        assert codec is not None
        return graph.run(".decoder", latents=(z / codec.scale + codec.shift).numpy())["decoded"]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """A folder by the name of its maker, and the pipeline that is in it."""
    root = tmp_path_factory.mktemp("diffusers")

    @cache
    def one(name: str) -> tuple[Path, Any]:
        made = getattr(tiny, name)()
        made.save_pretrained(str(root / name))
        return root / name, made

    return one


@pytest.fixture(scope="session")
def imported(saved: Callable[[str], tuple[Path, Any]]) -> Callable[[str], Imported]:
    """An imported folder by the name of its maker; each is exported once."""
    wishes: dict[str, dict[str, Any]] = {
        "stable_diffusion_xl": {"without": AUTOENCODER},
        "flux": {"size": (SIDE,), "tokens": tiny.T5_LENGTH, "without": AUTOENCODER},
        "dit": {"only": frozenset({"transformer"})},
    }

    @cache
    def one(name: str) -> Imported:
        return Imported(*saved(name), **wishes.get(name, {}))

    return one


def close(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Equal to 1e-3 of the spread."""
    return float(np.abs(got - expected).max()) < 1e-3 * float(expected.std())


def packed(z: torch.Tensor) -> torch.Tensor:
    """Latents as Flux's pipeline wants them given."""
    found: torch.Tensor = diffusers.FluxPipeline._pack_latents(z, *z.shape)
    return found


THEIRS: dict[str, dict[str, Any]] = {
    "stable_diffusion": {"negative_prompt": [NEGATIVE] * 2},
    "stable_diffusion_xl": {"negative_prompt": [NEGATIVE] * 2},
    "flux": {"max_sequence_length": tiny.T5_LENGTH},
}


@pytest.mark.parametrize("name", THEIRS)
def test_a_pipelines_parts_draw_what_diffusers_draws(imported: Callable[[str], Imported], name: str):
    model = imported(name)
    part = ".transformer" if name == "flux" else ".unet"
    pipeline, card = model.made, model.card(part)
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(2, *card.event_shape, generator=torch.Generator().manual_seed(3))
    expected = pipeline(
        PROMPTS, latents=packed(z) if name == "flux" else z, num_inference_steps=6, guidance_scale=3.0, height=SIDE,
        width=SIDE, output_type="np", **THEIRS[name],
    ).images  # fmt: skip

    assert card.prediction is not None
    assert card.defaults is not None
    assert card.defaults.solver is not None
    plan = steering.plan(
        card.defaults.solver, path=path_of(card), steps=6, prediction=card.prediction, grid=card.defaults.grid,
        end=card.end,
    )  # fmt: skip
    sizes, scale = torch.tensor([[SIDE, SIDE, 0.0, 0.0, SIDE, SIDE]]), torch.tensor([3.0])
    told = {key: value for key, value in (("time_ids", sizes), ("guidance", scale)) if key in card.conditions}
    drawn = steering.run(
        plan,
        OnnxNetwork(model.graph(part), card, threads=1),
        tuple(z.shape),
        condition=model.encoded(PROMPTS) | told,
        null=None if name == "flux" else model.encoded([NEGATIVE]),
        keep=[key for key in told if key == "time_ids"],
        guidance=1.0 if name == "flux" else 3.0,
        x_init=plan.nodes[0].sigma * z if name == "stable_diffusion_xl" else z,  # as its scheduler begins
    )
    assert isinstance(drawn, torch.Tensor)
    pictures = (model.decoded(drawn, imported("stable_diffusion")) / 2 + 0.5).clip(0, 1).transpose(0, 2, 3, 1)
    assert close(pictures, expected)


@pytest.mark.parametrize("name", ["stable_diffusion", "flux", "labelled", "dit"])
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


def test_a_scale_that_flux_gives_to_nobody_does_not_guide(tmp_path: Path):
    """FluxPipeline's guidance_scale of 3.5 is an input of the network, or is without effect."""
    scales = []
    for guided in (True, False):
        folder = tmp_path / str(guided)
        tiny.flux(guided).save_pretrained(str(folder))
        card = prepare(read(folder), "flux", Wishes(size=(SIDE,), tokens=tiny.T5_LENGTH)).pipeline
        assert card is not None
        assert card.pipeline is not None
        assert card.defaults is not None
        scales.append((card.pipeline.guidance_input, card.defaults.guidance))
    assert scales == [("guidance", 3.5), (None, None)]


def test_a_network_that_fills_in_is_told_what_by_its_pipeline(saved: Callable[[str], tuple[Path, Any]]):
    card = prepare(read(saved("inpainting")[0]), "inpainting", Wishes()).pipeline
    assert card is not None
    assert card.pipeline is not None
    assert (card.pipeline.mask, card.pipeline.masked) == ("mask", "masked_image_latents")


def test_a_class_conditional_network_of_pictures_is_one_sampler(imported: Callable[[str], Imported]):
    model = imported("labelled")
    assert [*model.written] == ["labelled"]
    card = model.card()
    assert (card.event_shape, card.conditions["class_labels"].max) == ((3, 8, 8), 6)


def test_a_lone_network_reads_the_prompt_beside_the_time(tmp_path: Path):
    made, folder = tiny.beside_the_time(), tmp_path / "beside"
    made.save_pretrained(str(folder))
    tiny.ddim().save_pretrained(str(folder))
    model = Imported(folder, made, tokens=5)
    assert [*model.written] == ["beside"]
    card = model.card()
    assert {name: each.shape for name, each in card.conditions.items()} == {"encoder_hidden_states": (5, 16)}
    generator = torch.Generator().manual_seed(4)
    x, told = (torch.randn(2, *shape, generator=generator) for shape in (card.event_shape, (5, 16)))
    t = torch.tensor([3.0, 700.0])

    def theirs() -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = made(x, t, told, return_dict=False)[0].numpy()
        return found

    got = model.run("", x=x.numpy(), t=t.numpy(), encoder_hidden_states=told.numpy())[card.output]
    assert close(got, theirs())
    for value in made.add_embedding.parameters():
        value.data.zero_()
    assert not close(got, theirs())  # the prompt counts beside the time, not in the attention alone


def test_the_encoder_gives_the_mode_and_the_decoder_takes_it_back(imported: Callable[[str], Imported]):
    model = imported("stable_diffusion")
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = model.made.vae.encode(pixels).latent_dist.mean.numpy()
    assert close(model.run(".encoder", pixels=pixels.numpy())["encoded"], expected)


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["import", *map(str, arguments)])
    return result.exit_code, result.output.strip()


def test_a_dry_run_writes_nothing(folder: Path):
    models = folder.parent / "models"
    code, text = command(folder, models / "sd", "--dry-run")
    assert code == 0
    assert "sd.unet: UNet2DConditionModel, samples 4x8x8, 64.8 k parameters" in text
    assert not models.exists()


@pytest.fixture
def folder(saved: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> Path:
    """A copy of Stable Diffusion's folder, to be spoilt."""
    return Path(shutil.copytree(saved("stable_diffusion")[0], tmp_path / "folder"))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


def said(file: str, **values: Any) -> Callable[[Path], None]:
    """Other values in a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return change


def pickled(folder: Path) -> None:
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def shortened(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def no_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "lacks a part": (without("vae"), "vae: expected a folder of that name with a AutoencoderKL, got none"),
    "lacks its tokenizer": (
        said("model_index.json", tokenizer=[None, None]),
        "tokenizer: expected a tokenizer for text_encoder, got none",
    ),
    "lacks its scheduler": (
        said("model_index.json", scheduler=[None, None]),
        "expected a scheduler's configuration (--scheduler FILE names one), got none",
    ),
    "unknown network": (
        said("model_index.json", unet=["diffusers", "UNet3DConditionModel"]),
        "unet: expected one of UNet2DModel, UNet2DConditionModel,",
    ),
    "unknown text encoder": (
        said("model_index.json", text_encoder=["transformers", "BertModel"]),
        "text_encoder: expected one of CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel, got BertModel",
    ),
    "unknown scheduler": (said("scheduler/scheduler_config.json", _class_name="MagicScheduler"), "MagicScheduler"),
    "wrong scheduler field": (
        said("scheduler/scheduler_config.json", prediction_type="guess"),
        "prediction_type",
    ),
    "controlnet": (
        said("model_index.json", controlnet=["diffusers", "ControlNetModel"], vae=[None, None]),
        "controlnet: expected a folder of that name with a ControlNetModel, got none",
    ),
    "lora": (
        lambda folder: (folder / "unet" / "pytorch_lora_weights.safetensors").touch(),
        "expected whole weights, got a LoRA",
    ),
    "pickled weights": (
        pickled,
        "expected weights in .safetensors, got weights in pickle files (--allow-pickle reads them)",
    ),
    "no weights of a later part": (
        lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "vae: expected weights in .safetensors, got none",
    ),
    "half a file": (shortened, "diffusion_pytorch_model.safetensors: expected whole weights, got: "),
    "another image size": (
        said("unet/config.json", in_channels=5),
        "in_channels: expected 4 as out_channels, or 9 of a network that fills in, got 5",
    ),
    "no JSON": (no_json, "model_index.json: expected JSON"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(folder: Path, fault: str):
    spoil, text = SPOILT[fault]
    spoil(folder)
    models = folder.parent / "models"
    code, output = command(folder, models / "sd")
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert code == 2
    assert len(errors) == 1
    assert text in errors[0]
    assert "exported" not in output
    assert not models.exists() or list(models.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--size", "17"], "--size: expected multiples of 2, as the decoder's pixels are, got 17x17"),
        (["--size", "big"], "--size: expected a number or HEIGHTxWIDTH, got 'big'"),
        (["--only", "vae"], "--only: expected one of unet, text, decoder, encoder, got vae"),
        (["--bank", "8"], "--bank, --calibrate: expected a sampler without conditions, got encoder_hidden_states"),
        (["--tiny", "nowhere"], "nowhere: expected config.json of a model in it, got none"),
    ],
)
def test_wrong_options_are_one_line(folder: Path, options: list[str], text: str):
    code, output = command(folder, folder.parent / "models" / "sd", *options)
    assert (code, output.splitlines()[-1]) == (2, f"error: {text}")


def test_what_is_there_already_stays(imported: Callable[[str], Imported]):
    model = imported("labelled")
    before = model.graph("").read_bytes()
    code, output = command(model.folder, model.models / "labelled")
    assert code == 2
    assert "expected nothing there (--replace writes anew), got a folder" in output
    assert model.graph("").read_bytes() == before
