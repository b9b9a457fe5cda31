"""A folder of diffusers, imported."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from exporters.diffusers.source import read
from exporters.diffusers.writing import Import, Wishes, Written, prepare
from exporters.network import open_session
from protos.card import Card, load_card
from serving.backends.opening import Opener
from serving.models.folders import Folder
from serving.models.repository import load

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
