"""Normalised importance weights: softmax, effective sample size, and the checks a reward's values must pass.

Reductions run over the last, contiguous dimension only, so a row's bits do not depend on the batch.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from steering.errors import SteeringError


def checked_rewards(rewards: object, rows: int, name: str, dtype: torch.dtype | None = None) -> Float[Tensor, " rows"]:
    """Rewards of `rows` candidates in `dtype`: [rows], -inf allowed, NaN and +inf not. Raises `SteeringError`."""
    if isinstance(rewards, Tensor) and rewards.is_complex():
        raise SteeringError(f"reward {name!r}: expected real values, got {rewards.dtype}")
    if not isinstance(rewards, Tensor):
        raise SteeringError(f"reward {name!r}: expected a tensor of shape [{rows}], got {type(rewards).__name__}")
    if rewards.shape != (rows,):
        raise SteeringError(f"reward {name!r}: expected shape [{rows}], got {list(rewards.shape)}")
    rewards = rewards.to(dtype or rewards.dtype)  # first: a large reward may not fit
    if bool((rewards.isnan() | (rewards == torch.inf)).any()):
        bad = "NaN" if bool(rewards.isnan().any()) else "+inf"
        raise SteeringError(f"reward {name!r}: expected finite values or -inf, got {bad}")
    return rewards


def log_weights(rewards: Float[Tensor, "... m"], beta: float) -> Float[Tensor, "... m"]:
    """r / beta shifted so that the best of each row is 0; a row of -inf alone becomes flat."""
    best = rewards.max(dim=-1, keepdim=True).values
    finite = torch.finfo(rewards.dtype)  # beta rounded to 0 or infinity would make NaN of 0 / 0 or inf / inf
    shifted = (rewards - best) / min(max(beta, finite.tiny), finite.max)
    return torch.where(best == -torch.inf, torch.zeros_like(shifted), shifted)


def softmax(logits: Float[Tensor, "... m"]) -> Float[Tensor, "... m"]:
    """Normalised weights; -inf has weight 0."""
    return torch.softmax(logits, dim=-1)


def softmax_and_log_sum(logits: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n m"], Float[Tensor, " n"]]:
    """Normalised weights, and log sum exp of each row, which must have a finite entry.

    The greatest weight is 1 over the sum of the others' ratios to it; torch.logsumexp would compute all exponentials
    again, nine times as slowly as softmax does.
    """
    weights = softmax(logits)
    return weights, logits.amax(dim=-1) - weights.amax(dim=-1).log()


def effective_size(weights: Float[Tensor, "... m"]) -> Float[Tensor, "..."]:
    """Kish's effective sample size 1 / sum w^2 of normalised weights, in 1..m."""
    return 1 / (weights * weights).sum(dim=-1)


def flat(rewards: Float[Tensor, "... m"]) -> Bool[Tensor, "..."]:
    """Rows whose rewards are all equal."""
    return (rewards == rewards[..., :1]).all(dim=-1)


def draw_indices(weights: Float[Tensor, "n k"], uniform: Float[Tensor, "n m"]) -> Int64[Tensor, "n m"]:
    """m independent draws a row from its weights, which need not sum to 1, by inversion."""
    cumulative = weights.to(torch.float64).cumsum(dim=1)
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).clamp(max=weights.shape[1] - 1)
