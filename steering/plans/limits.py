"""Bounds on the denoised estimate, for networks that were trained on data in a known range.

They apply to D as it is used: after classifier-free guidance, whose large scales are what dynamic thresholding is for.
D is then no linear function of the network's output any more: plans stay valid, orders of solvers do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import PlanError


@dataclass(frozen=True)
class Clip:
    """Every number of D within low..high."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise PlanError(f"clip: expected low < high, got {self.low} and {self.high}")

    def __call__(self, denoised: Tensor) -> Tensor:
        """D [B, *event] within the bounds."""
        return denoised.clamp(self.low, self.high)


@dataclass(frozen=True)
class DynamicThreshold:
    """Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3): D clipped to -s..s, times bound / s.

    s is the quantile of a sample's |D|, at least `bound` and at most `most`, so that samples within the bound stay as
    they are.

    Attributes:
        quantile: the share of a sample's numbers that stays within s.
        bound: the data's largest absolute value.
        most: the largest s, None for no such.
    """

    quantile: float = 0.995
    bound: float = 1.0
    most: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise PlanError(f"dynamic threshold: expected a quantile above 0 and at most 1, got {self.quantile}")
        if not self.bound > 0:
            raise PlanError(f"dynamic threshold: expected a bound above 0, got {self.bound}")
        if self.most is not None and self.most < self.bound:
            raise PlanError(f"dynamic threshold: expected most >= bound {self.bound}, got {self.most}")

    def __call__(self, denoised: Tensor) -> Tensor:
        """D [B, *event] within -bound..bound."""
        sizes = denoised.abs().flatten(1).sort(dim=1).values
        place = self.quantile * (sizes.shape[1] - 1)
        below, above = sizes[:, int(place)], sizes[:, min(int(place) + 1, sizes.shape[1] - 1)]
        s = (below + (above - below) * (place - int(place))).clamp(self.bound, self.most)
        s = s.reshape(-1, *(1 for _ in denoised.shape[1:]))
        return torch.minimum(torch.maximum(denoised, -s), s) * (self.bound / s)


Limit = Clip | DynamicThreshold


def build(
    clip: tuple[float, float] | None = None, dynamic_threshold: Mapping[str, float | None] | None = None
) -> Limit | None:
    """The limit of a model card: the ends of a clip, or the arguments of a dynamic threshold; None for neither."""
    if clip is not None:
        return Clip(*clip)
    return None if dynamic_threshold is None else DynamicThreshold(**dynamic_threshold)  # type: ignore[arg-type]
