"""Rows of gradient methods, which no forward-only engine answers: D's transposed Jacobian, a reward's gradient."""

from collections.abc import Generator

import torch
from jaxtyping import Float
from torch import Tensor

from steering.errors import SteeringError, UnsuitableError
from steering.numerics.weights import checked_rewards
from steering.plans.predictions import Denoise
from steering.sampling.guidance import extrapolated
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem
from steering.targets.target import Target


def pullback(
    problem: Problem, rule: Denoise, x: Float[Tensor, "n *event"], cotangent: Float[Tensor, "n *event"]
) -> Generator[Rows, Tensor, Float[Tensor, "n *event"]]:
    """J^T `cotangent`, J = dD/dx of the denoised estimate that `sampler.evaluate` makes of x under guidance.

    D = state x + output F(scale x, t), so J^T v = state v + output scale J_F^T v.
    """
    if rule.limit is not None:
        raise UnsuitableError("gradients of D: expected an estimate without a limit (clip, threshold), got one with")
    scaled, guided = rule.scaled(x), problem.guided(rule.t)
    rows = Rows.pullback(scaled, rule.t, cotangent, problem.condition)
    if guided is None:
        back = yield rows
    elif problem.guidance_rescale:
        raise UnsuitableError(
            f"guidance_rescale: expected 0 beside a method that takes gradients, got {problem.guidance_rescale}"
        )
    else:
        null = Rows.pullback(scaled[guided], rows.t[guided], cotangent[guided], problem.null_condition(guided))
        if (both := rows.beside(null)) is not None:
            pair = yield both
            back, other = pair[: len(rows)], pair[len(rows) :]
        else:
            back = yield rows
            other = yield null
        moved = extrapolated(back[guided], other, problem.guidance)
        back = moved if isinstance(guided, slice) else back.index_copy(0, guided, moved)
    if not bool(back.isfinite().all()):
        raise SteeringError("network: expected finite gradients, got NaN or infinity")
    return rule(cotangent, rule.scaled(back.to(x.dtype)))


def reward_gradient(
    target: Target, x: Float[Tensor, "b *event"]
) -> Generator[Rows, Tensor, tuple[Float[Tensor, " b"], Float[Tensor, "b *event"]]]:
    """Rewards of x and their gradients. A row of reward -inf has none: its gradient is 0."""
    reply = yield Rows.reward_gradient(x)
    if not isinstance(reply, Tensor) or reply.shape != (len(x), 1 + x[0].numel()):
        checked_rewards(reply, len(x), target.name)  # says what is wrong with the reward's own reply
        raise SteeringError(f"reward {target.name!r}: expected gradients [{len(x)}, {1 + x[0].numel()}], got none")
    rewards = checked_rewards(reply[:, 0], len(x), target.name, x.dtype)
    gradient = torch.where(rewards[:, None] == -torch.inf, 0.0, reply[:, 1:].to(x.dtype))
    if not bool(gradient.isfinite().all()):
        raise SteeringError(f"reward {target.name!r}: expected finite gradients, got NaN or infinity")
    return rewards, gradient.reshape(x.shape)
