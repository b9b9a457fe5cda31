"""A network ten times as dear as the demo's digit model, with random weights, in a model repository of its own."""

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks._server import MODELS
from exporters.bank import write_bank
from exporters.digits.networks import DigitDenoiser
from exporters.export import export_model
from protos.card import load_card

WIDTH = 216
"""The digit model's is 64; a row then takes ten times as long on the CPU."""
STD = 0.02
"""Of the weights that a fresh network has at zero: every part of the graph then counts."""


def write_heavy(root: Path) -> Path:
    """A model repository under `root`: the wide network as `digits`, and the demo's classifier.

    The card, its calibration and the bank are the digit model's own: nothing is left to be made after loading.
    """
    card = load_card(MODELS / "digits" / "card.yaml")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DigitDenoiser(WIDTH)
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.any():
                nn.init.normal_(module.weight, std=STD)
        examples = {"x": torch.randn(4, *card.event_shape), "t": torch.linspace(0.1, 0.9, 4)}
    export_model(network, root / "digits", card, examples=examples, outputs=[card.output], sizes=(1, 5))
    with np.load(MODELS / "digits" / "1" / "bank.npz") as bank:
        write_bank(root / "digits" / "1" / "model.onnx", torch.from_numpy(bank["x"]))
    shutil.copytree(MODELS / "classifier", root / "classifier")
    return root
