"""Systematic resampling (Kitagawa 1996): one uniform number a population places evenly spaced points on its weights."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor


def systematic(weights: Float[Tensor, "p m"], uniform: Float64[Tensor, "p 1"], count: int) -> Int64[Tensor, "p count"]:
    """`count` members of each population, increasing; member i is expected count * w_i times, and that +-1 always.

    With `count` 1 it is one draw by inversion. Equal weights and `count` m leave every member once.
    """
    cumulative = weights.to(torch.float64).cumsum(dim=1)
    points = (torch.arange(count, dtype=torch.float64) + uniform) / count * cumulative[:, -1:]
    return torch.searchsorted(cumulative, points.contiguous()).clamp(max=weights.shape[1] - 1)
