"""`tiltserve import` on tiny random folders of the real classes: what it writes, and that samples are diffusers'."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import steering
from deploy.cli import app
from exporters.diffusers.source import read
from exporters.diffusers.writing import Wishes, prepare
from exporters.network import OnnxNetwork, path_of
from tests import tiny_diffusers as tiny
from tests.exporters.diffusers.imported import NEGATIVE, PROMPTS, SIDE, Imported

diffusers: Any = importlib.import_module("diffusers")  # its classes are made on demand, out of a type checker's sight


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
