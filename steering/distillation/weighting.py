"""What a view's gradient is multiplied by, from its noise level at t1."""

from collections.abc import Callable, Mapping

from jaxtyping import Float64
from torch import Tensor

from steering.distillation.levels import Levels

Weight = Callable[[Levels], Float64[Tensor, " b"]]


def uniform(level: Levels) -> Float64[Tensor, " b"]:
    """1."""
    return level.rho.new_ones(level.rho.shape)


def sds(level: Levels) -> Float64[Tensor, " b"]:
    """rho^2 / (1 + rho^2): sigma^2 = 1 - abar of a variance-preserving path (Poole et al. 2022, arXiv:2209.14988)."""
    square = level.rho * level.rho
    return square / (1 + square)


def fantasia3d(level: Levels) -> Float64[Tensor, " b"]:
    """rho^2 / (1 + rho^2)^(3/2): alpha sigma^2 there (Chen et al. 2023, arXiv:2303.13873)."""
    square = level.rho * level.rho
    return square / ((1 + square) * (1 + square).sqrt())


WEIGHTINGS: Mapping[str, Weight] = {"uniform": uniform, "sds": sds, "fantasia3d": fantasia3d}
