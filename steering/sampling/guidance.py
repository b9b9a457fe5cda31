"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): where it acts, and what it makes of two outputs."""

import math

import torch
from torch import Tensor

from steering.numerics.tiles import by_tiles

Interval = tuple[float, float]
"""Log-SNRs between which guidance acts, the noisier end first, both included."""
SLACK = 1e-6
"""Relative rounding of an interval's ends: a node that was named as an end is inside."""


def inside(interval: Interval, log_snr: Tensor) -> Tensor:
    """Whether guidance acts at log-SNRs, of any shape (Kynkäänniemi et al. 2024, arXiv:2404.07724, eq. 5)."""
    slack = [SLACK * max(1.0, abs(end)) if math.isfinite(end) else 0.0 for end in interval]
    return (log_snr >= interval[0] - slack[0]) & (log_snr <= interval[1] + slack[1])


def extrapolated(conditional: Tensor, null: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """null + scale (conditional - null) of outputs [n, *event].

    Args:
        rescale: phi in 0..1: the output's standard deviation over an event is moved by this share toward that of the
            conditional one (Lin et al. 2023, arXiv:2305.08891, eq. 15 and 16).
    """
    guided = null + (conditional - null) * scale
    if not rescale:
        return guided
    spread = _deviation(guided)
    ratio = torch.where(spread > 0, _deviation(conditional) / spread.clamp(min=torch.finfo(spread.dtype).tiny), 1.0)
    factor = rescale * ratio + (1 - rescale)
    return guided * factor.to(guided.dtype).reshape(-1, *(1 for _ in guided.shape[1:]))


def _deviation(x: Tensor) -> Tensor:
    """Standard deviations [n] over each event of x [n, *event], in float64 and with the same bits in any batch."""
    return by_tiles(lambda tile: (tile.std(dim=1, correction=0),), x.flatten(1).to(torch.float64))[0]
