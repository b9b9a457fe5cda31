"""The trained model as diffusers keeps it: a pipeline's folder, for `tiltserve import`."""

import json
from pathlib import Path

import diffusers

from exporters.emoji.networks import scheduler, tokenizer
from exporters.emoji.train import Painter

INDEX = {
    "_class_name": "DiffusionPipeline",
    "_diffusers_version": diffusers.__version__,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
"""The parts of a pipeline of pixels: there is no autoencoder, the U-Net draws pictures of -1..1."""


def write(painter: Painter, folder: Path) -> Path:
    """Write every part and `model_index.json`; what was there under the same names is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    painter.unet.save_pretrained(folder / "unet")
    painter.encoder.save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n", encoding="utf-8")
    return folder
