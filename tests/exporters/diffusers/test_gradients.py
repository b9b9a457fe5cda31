"""`tiltserve import --vjp`: an imported network is steered by gradients on the server as by torch's autograd."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import steering
from exporters.diffusers.source import FolderError, read
from exporters.diffusers.writing import Wishes, prepare
from exporters.network import path_of
from steering import baselines
from tests import tiny_diffusers as tiny
from tests.exporters.diffusers.imported import Imported
from tests.serving.live import running
from tiltserve import Client

SHALLOW: dict[str, Any] = {
    "block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",),
    "mid_block_type": None,
}  # fmt: skip


def test_gradients_are_torchs(tmp_path: Path):
    made = tiny.ddpm(**SHALLOW)
    made.scheduler = tiny.ddim(steps_offset=0)  # without clipping, which has no gradient
    made.save_pretrained(str(tmp_path / "ddpm"))
    imported = Imported(tmp_path / "ddpm", made, vjp=True)
    card = imported.card()
    assert card.vjp is not None
    assert (card.vjp.of, card.vjp.to) == (card.output, card.inputs.x)
    assert max(each.error or 0 for each in imported.written.values()) < 1e-4
    direction = torch.randn(card.event_shape, generator=torch.Generator().manual_seed(2))
    path, unet = path_of(card), made.unet
    time = steering.paths.time_input(card.inputs.time)

    def network(x: Tensor, t: Tensor) -> Tensor:
        found: Tensor = unet(x, time(path, t).to(torch.float32), return_dict=False)[0]
        return found

    assert card.prediction is not None
    assert card.defaults is not None
    plan = steering.plan("ddim", path=path, steps=4, prediction=card.prediction, grid=card.defaults.grid, end="denoise")
    steer = baselines.Dps(lambda x: (x * direction).flatten(1).sum(dim=1), beta=50.0)
    expected = steering.run(plan, network, (3, *card.event_shape), 1, steer)
    assert isinstance(expected, Tensor)
    with running(imported.models) as live, Client(live.address) as client:
        how: dict[str, Any] = {
            "solver": "ddim",
            "steps": 4,
            "seed": 1,
            "end": "denoise",
            "reward": "linear",
            "beta": 50.0,
        }
        arguments = {"direction": direction.numpy()}
        drawn = client.sample("ddpm", 3, steering="dps", reward_args=arguments, **how)
        plain = client.sample("ddpm", 3, steering="none", reward_args=arguments, **how)
    assert np.abs(drawn.samples - expected.numpy()).max() < 1e-3 * float(expected.std())
    assert drawn.rewards is not None
    assert plain.rewards is not None
    assert (drawn.rewards > plain.rewards).all()


def test_a_graph_of_free_size_has_no_gradients(tmp_path: Path):
    tiny.ddpm(**SHALLOW).save_pretrained(str(tmp_path / "ddpm"))
    with pytest.raises(FolderError, match="--vjp: expected no --free-size beside it"):
        prepare(read(tmp_path / "ddpm"), "ddpm", Wishes(vjp=True, free_size=True))
