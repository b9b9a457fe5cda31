"""A conditional sampler whose tilted laws are closed forms, under any guidance: Gaussians of any mean and width."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.export import export_model
from protos.card import Card
from tests.networks import TIMES


class Gaussians(nn.Module):
    """The exact E[x_0 | x_t] of N(mean, width^2 I) on rectified flow.

    Guidance of the mean, the width kept, draws N(w mean, width^2 I): the null is 0.
    """

    def forward(self, x: Tensor, t: Tensor, mean: Tensor, width: Tensor) -> Tensor:
        alpha, sigma, variance = (1 - t)[:, None], t[:, None], width[:, None] ** 2
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)


def write(root: Path, name: str = "gaussians", d: int = 2) -> None:
    """The sampler of d numbers a sample."""
    given: dict[str, Any] = {
        "name": name,
        "path": {"kind": "rectified_flow"},
        "prediction": "x0",
        "t_range": [0.001, 0.999],
        "event_shape": [d],
        "output": "x0",
        "conditions": {
            "mean": {"dtype": "float32", "shape": [d], "null": 0.0},
            "width": {"dtype": "float32", "shape": [], "guidance": "keep"},
        },
    }
    examples = {"x": torch.randn(4, d), "t": TIMES, "mean": torch.randn(4, d), "width": torch.rand(4) + 0.1}
    export_model(Gaussians(), root / name, Card.model_validate(given), examples=examples, outputs=["x0"], sizes=(1, 5))
