"""Researcher: train a small network, keep it as a checkpoint, and export it as a model that the server serves.

.venv/bin/python examples/export_checkpoint.py models            # writes models/spiral
.venv/bin/tiltserve serve --models models                        # or add models/spiral to models of your own
.venv/bin/python examples/black_box.py 127.0.0.1:8001            # steers it toward a reward that is a black box
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from exporters.export import export_model
from protos.card import Card

STEPS = 800


class Denoiser(nn.Module):
    """x_t [B, 2], t [B] -> the estimate of the data [B, 2], on the straight path x_t = (1 - t) x + t noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        estimate: Tensor = self.layers(torch.cat([x, t[:, None]], dim=1))
        return estimate


def spiral(n: int) -> Tensor:
    """Points [n, 2] of the data."""
    turn = 9 * torch.rand(n).sqrt()
    return torch.stack([turn.cos(), turn.sin()], dim=1) * turn[:, None] / 4 + 0.05 * torch.randn(n, 2)


def train() -> Denoiser:
    network = Denoiser()
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(STEPS):
        x, t, noise = spiral(256), torch.rand(256), torch.randn(256, 2)
        loss = (network((1 - t)[:, None] * x + t[:, None] * noise, t) - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return network.eval()


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "models") / "spiral"
torch.manual_seed(0)
checkpoint = folder.parent / "spiral.pt"
folder.parent.mkdir(parents=True, exist_ok=True)
torch.save(train().state_dict(), checkpoint)

network = Denoiser()
network.load_state_dict(torch.load(checkpoint))
card = Card.model_validate(
    {
        "name": "spiral",
        "path": {"kind": "rectified_flow"},
        "prediction": "x0",
        "t_range": [0.01, 0.99],
        "event_shape": [2],
        "output": "x0",
    }
)
export_model(network.eval(), folder, card, examples={"x": torch.randn(4, 2), "t": torch.rand(4)}, outputs=["x0"])
print("wrote", folder)
