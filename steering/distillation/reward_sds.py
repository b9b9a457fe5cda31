"""RewardSDS (Chachy et al. 2025, arXiv:2503.09601): the noises of a view, weighted by the reward of what each leads to.

sum_k w_k (eps_w(z_k) - n_k), w = softmax(r(D(z_k)) / beta). It is what to compare tilted distillation with: it weighs
noises, not data. On a Gaussian prior N(m, s^2) with a linear reward its fixed point goes s^2 / (s^2 + rho^2) of the way
from m to the tilted law's mean, however many noises: little where levels are high, and those make the object.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from steering.distillation.estimates import State, along
from steering.distillation.mode import Looked, weighted
from steering.numerics.weights import softmax
from steering.sampling.rows import Rows


def direction(look: Looked) -> Generator[Rows, Tensor, State]:
    """The weighted mean of eps_w(x + rho1 n) - n over the noises of a view."""
    target, problem = look.target, look.estimator.problem
    assert target is not None
    z = look.copies + along(look.first.rho, look.copies) * look.noise
    estimate = (yield from look.estimator(z, look.first, look.of, 0)).rescaled(look.rescale)
    denoised = estimate.denoised if problem.mean is None else estimate.denoised + problem.mean[look.of]
    rewards = yield from target.score(denoised.to(problem.dtype), torch.float64)
    weights = softmax(target.log_weights(rewards.reshape(look.noises, -1).T.contiguous()))
    return weighted(estimate.eps - look.noise, weights)
