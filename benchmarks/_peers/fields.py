"""The field that the servers of trajectories are compared on, and their requests."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

TIMES = np.linspace(0.0, 4.0, 9)
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)
"""Of requests, in turn."""


class Swirl(nn.Module):
    """An untrained field of two numbers and the time: two hidden layers and a pull to the origin."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.inside = nn.Sequential(
                nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
            )

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        slope: Tensor = self.inside(torch.cat([z, torch.sin(t)[:, None]], dim=1))
        return slope * 6 - z


@dataclass(frozen=True)
class Job:
    """One trajectory from y0 [2] at a tolerance."""

    y0: list[float]
    rtol: float


def jobs(count: int) -> list[Job]:
    """Requests of so many clients."""
    starts: NDArray[np.float64] = np.random.default_rng(0).normal(size=(count, 2))
    return [Job(start.tolist(), TOLERANCES[i % len(TOLERANCES)]) for i, start in enumerate(starts)]
