"""Training of the digit networks: seeded, resumable, on two CPU cores in bfloat16."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import steering
from exporters.digits.data import Digits
from exporters.digits.networks import DigitClassifier, DigitDenoiser
from exporters.training import Training

BATCH = 128
Net = TypeVar("Net", bound=nn.Module)


def jitter(
    images: Tensor, generator: torch.Generator, degrees: float = 6.0, zoom: float = 0.06, shift: float = 1.0
) -> Tensor:
    """A small random rotation, zoom and shift of each image: more writers from the same pages.

    Args:
        images: [B, 1, H, W] in [-1, 1], background -1.
        shift: largest shift in pixels.
    """
    uniform = lambda: torch.rand(len(images), generator=generator) * 2 - 1  # noqa: E731
    angle = uniform() * degrees * torch.pi / 180
    scale = 1 + uniform() * zoom
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    move = 2 * shift / images.shape[-1]
    rows = torch.stack([cos, -sin, uniform() * move, sin, cos, uniform() * move], dim=1)
    grid = F.affine_grid(rows.reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # zero padding is then background


def batches(digits: Digits, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled, jittered batches."""
    while True:
        order = torch.randperm(len(digits), generator=generator)
        for rows in order.split(BATCH):
            if len(rows) == BATCH:
                yield jitter(digits.images[rows], generator), digits.labels[rows]


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Short warm-up, a plateau, then a linear fall to zero over the last 40%."""
    return peak * min(1.0, (step + 1) / 200, (steps - step) / (0.4 * steps))


def train_denoiser(
    digits: Digits, checkpoint: Path, *, steps: int, path: steering.Path, peak: float = 1e-3, seed: int = 0
) -> DigitDenoiser:
    """Fit v(x_t, t) = alpha eps - sigma x_0 by mean squared error at stratified uniform times; the averaged weights.

    Args:
        checkpoint: written every 250 steps and resumed from when present.
        steps: batches of 128 images in all.
    """
    torch.manual_seed(seed)
    training = Training(DigitDenoiser(), checkpoint, peak=peak, steps=steps, kept=250)
    generator = torch.Generator().manual_seed(seed + training.first)
    stream = batches(digits, generator)
    for step in range(training.first, steps):
        x0, _ = next(stream)
        u = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        t = path.t_min + (path.t_max - path.t_min) * u
        alpha, sigma = (c.float().reshape(-1, 1, 1, 1) for c in (path.alpha(t), path.sigma(t)))
        eps = torch.randn(x0.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            v = training.network(alpha * x0 + sigma * eps, t)
        loss = F.mse_loss(v.float(), alpha * eps - sigma * x0)
        training.learn(step, loss, learning_rate(step, steps, peak))
    return training.averaged()


def train_classifier(network: Net, digits: Digits, *, epochs: int, seed: int) -> Net:
    """Fit a classifier of log-probabilities [B, 10] on jittered images, half of them with Gaussian noise.

    The noise (standard deviation up to 0.5) keeps the reward informative on the slightly blurred denoised estimates
    that steering asks it about.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(digits) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    stream = batches(digits, generator)
    for _ in range(steps):
        x, label = next(stream)
        level = 0.5 * torch.rand(BATCH, 1, 1, 1, generator=generator)
        level = level * (torch.rand(BATCH, 1, 1, 1, generator=generator) < 0.5)
        x = x + level * torch.randn(x.shape, generator=generator)
        loss = F.nll_loss(log_probabilities(network, x), label, reduction="mean")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def log_probabilities(network: nn.Module, x: Tensor) -> Tensor:
    """[B, 10] log-probabilities of either classifier."""
    if isinstance(network, DigitClassifier):
        return network(x, torch.zeros(len(x), dtype=torch.int64))[1]
    return network(x)[0]
