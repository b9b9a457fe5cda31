"""Training of the scene denoiser: seeded, on one core in bfloat16; it resumes from its checkpoint."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from exporters.scenes.data import Pictures
from exporters.scenes.networks import NO_KIND, SIGMA_DATA, SceneDenoiser
from exporters.training import Training

BATCH = 48
NOTHING, NO_CAMERA = 0.1, 0.25
"""Shares of training rows that are told neither object nor camera, and the object without the camera."""
LEVELS = (0.02, 20.0)
"""Least and most noise that the network is asked about."""
SPREAD_EVENLY = 0.15
"""Share of noise levels that are drawn log-uniformly over LEVELS; the others are where pictures are decided."""


def told(
    pictures: Pictures, rows: Int[Tensor, " b"], generator: torch.Generator
) -> tuple[Int[Tensor, " b"], Float[Tensor, "b 3"]]:
    """Kind and camera of some pictures, left out at random."""
    u = torch.rand(len(rows), generator=generator)
    kind = torch.where(u < NOTHING, NO_KIND, pictures.kind[rows])
    return kind, torch.where((u < NOTHING + NO_CAMERA)[:, None], 0.0, pictures.camera[rows])


def levels(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Noise levels: log-normal, some log-uniform over all that the network is asked about."""
    usual = torch.randn(n, generator=generator) * 1.3 - 0.7
    low, high = (math.log(level) for level in LEVELS)
    even = low + (high - low) * torch.rand(n, generator=generator)
    log_sigma = torch.where(torch.rand(n, generator=generator) < SPREAD_EVENLY, even, usual)
    return log_sigma.clamp(low, high).exp()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Short warm-up, then a quarter of a cosine."""
    return peak * min(1.0, (step + 1) / 100) * (math.cos(step / steps * math.pi / 2) + 0.01)


def shuffled(n: int, generator: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
    """Endless batches of numbers, each number once a pass."""
    while True:
        yield from torch.randperm(n, generator=generator)[: n - n % BATCH].split(BATCH)


def train_denoiser(
    pictures: Pictures, checkpoint: Path, *, steps: int, peak: float = 1.5e-3, seed: int = 0
) -> SceneDenoiser:
    """Fit EDM's network by its weighted squared error; the averaged weights.

    Args:
        checkpoint: written every 500 batches and resumed from when present.
        steps: batches of 48 pictures in all.
    """
    torch.manual_seed(seed)
    training = Training(SceneDenoiser(), checkpoint, peak=peak, steps=steps, kept=500)
    generator = torch.Generator().manual_seed(seed + training.first)
    for step, rows in zip(range(training.first, steps), shuffled(len(pictures), generator), strict=False):
        x0 = pictures.x(rows)
        kind, camera = told(pictures, rows, generator)
        sigma = levels(BATCH, generator).reshape(-1, 1, 1, 1)
        noised = x0 + sigma * torch.randn(x0.shape, generator=generator)
        norm = (sigma**2 + SIGMA_DATA**2).sqrt()
        with torch.autocast("cpu", torch.bfloat16):
            output = training.network(noised / norm, sigma.flatten().log() / 4, kind, camera)
        # (D - x0)^2 (sigma^2 + s^2) / (sigma s)^2 with D = s^2 / norm^2 x + sigma s / norm F
        wanted = (x0 - SIGMA_DATA**2 / norm**2 * noised) * norm / (sigma * SIGMA_DATA)
        loss = (output.float() - wanted).square().mean()
        training.learn(step, loss, learning_rate(step, steps, peak))
    return training.averaged()
