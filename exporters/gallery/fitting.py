"""A training run of minutes: AdamW with a warm-up and a cosine, the moving average of the weights at the end."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from exporters.training import Training

Net = TypeVar("Net", bound=nn.Module)


def fitted(
    network: Net, loss: Callable[[Net, torch.Generator], Tensor], *, steps: int, peak: float, seed: int = 0, name: str
) -> Net:
    """The network after so many batches, with averaged weights, in evaluation mode.

    Args:
        loss: `(network, generator)` -> a scalar of a fresh batch, drawn with the generator.
        peak: the highest learning rate.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = max(1, steps)
    warm = max(1, steps // 20)
    with tempfile.TemporaryDirectory() as folder:
        run = Training(network, Path(folder) / f"{name}.pt", peak=peak, steps=steps, kept=steps, told=200)
        for step in range(steps):
            run.learn(step, loss(network, generator), rate(step, steps, warm, peak))
    return run.averaged()


def rate(step: int, steps: int, warm: int, peak: float) -> float:
    """Learning rate of a batch: up to `peak` over `warm` batches, then down half a cosine to a hundredth of it."""
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
