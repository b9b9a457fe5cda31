"""Researcher: a neural ODE of your own, trained, exported and served; then trajectories of it, each at its tolerance.

.venv/bin/python examples/dynamics.py models/spiral   # some seconds: trains and exports
.venv/bin/tiltserve serve --models models             # in another shell
.venv/bin/python examples/dynamics.py                 # asks
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ADDRESS = "127.0.0.1:8001"


class Spiral(nn.Module):
    """dz/dt of two numbers. Its arguments are called as the card's inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, z: Tensor) -> Tensor:
        slope: Tensor = self.inside(z**3)
        return slope


def train(steps: int = 400) -> Spiral:
    """Learn dz/dt = (-0.1 x^3 + 2 y^3, -2 x^3 - 0.1 y^3) from slopes with noise."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    field = Spiral()
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    turn = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    for _ in range(steps):
        z = torch.rand(256, 2) * 4 - 2
        loss = (field(z) - z**3 @ turn.T - 0.1 * torch.randn(256, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field


def export(folder: Path) -> None:
    """The model's folder: the graph, a graph of whole steps, and the card."""
    from exporters.dynamics import export_dynamics
    from protos.card import Card

    dynamics = {"kind": "ode", "state": [2], "inputs": {"y": "z"}, "outputs": {"drift": "f"}}
    report = export_dynamics(
        train(), folder, Card.model_validate({"name": folder.name, "dynamics": dynamics}), step=True
    )
    print(f"exported {folder}: worst error against torch {max(report.error.values()):.1e}")


def ask(address: str) -> None:
    """Trajectories from three starts, and where the first of them crosses the axis."""
    from tiltserve import Client

    starts, times = [[2.0, 0.0], [1.0, 1.0], [0.5, -1.5]], np.linspace(0, 10, 201)
    with Client(address, timeout=60) as client:
        found = client.solve("spiral", starts, times, rtol=np.array([1e-3, 1e-4, 1e-5]))
        print(found, "ends at", np.asarray(found)[:, -1].round(3).tolist(), "rows", found.evaluations.tolist())
        crossed = client.solve("spiral", starts[:1], times, events="0:falling")
        print("first crosses x = 0 at", crossed.t_event[0, 0].round(4), crossed.statuses[0])


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else ADDRESS
    ask(where) if ":" in where else export(Path(where))
