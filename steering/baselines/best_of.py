"""Best of N: of n independent chains a sample, the one of the highest reward. KL to the model <= log n - (n - 1) / n.

The reward of what it returns is the largest of n draws: its distribution function is F^n. That is no tilted law.
"""

import math
from collections.abc import Hashable
from dataclasses import replace

import torch

from steering.errors import SteeringError
from steering.methods.aimed import Aimed
from steering.numerics.noise import Noise
from steering.sampling.sampler import Drawing, Problem, Start, Steering, sample
from steering.targets.target import Reward, Target


class BestOf(Aimed):
    """Chain j of sample i has the noise of index i * n + j.

    Args:
        reward: ranks finished samples, [B, *event] -> [B].
        n: chains a sample, at least 1.
        inner: draws the chains; plain ones when absent. Its reward, if it has one, must be this one.
        key: identifies the reward, see `Target`.
    """

    def __init__(self, reward: Reward, n: int, inner: Steering | None = None, *, key: Hashable = None) -> None:
        if not isinstance(n, int) or n < 1:
            raise SteeringError(f"n: expected an integer >= 1, got {n!r}")
        if inner is not None and inner.reward not in (None, reward):
            raise SteeringError("inner: expected a method toward the same reward, got one toward another")
        super().__init__(Target(reward, key=key))
        self.n, self.inner = n, inner

    @property
    def held(self) -> int:
        """Implements `Steering.held`."""
        return self.n * (1 if self.inner is None else self.inner.held)

    @property
    def together(self) -> int:
        """Samples whose chains make up whole populations of `inner`."""
        united = 1 if self.inner is None else self.inner.together
        return united // math.gcd(united, self.n)

    @property
    def stage_rows(self) -> int:
        """Network rows at a stage of the samples that are drawn together, at most."""
        chains = self.together * self.n
        return chains if self.inner is None else chains // self.inner.together * self.inner.stage_rows

    @property
    def stage_evaluations(self) -> int:
        """Implements `Steering.stage_evaluations`."""
        return 1 if self.inner is None else self.inner.stage_evaluations

    @property
    def needs_gradients(self) -> bool:
        """Implements `Steering.needs_gradients`."""
        return self.inner is not None and self.inner.needs_gradients

    @property
    def shows(self) -> bool:
        """Implements `Steering.shows`: which chain is kept is known at the end."""
        return False

    def draw(self, problem: Problem, noise: Noise, x_init: Start | None) -> Drawing:
        """Implements `Steering.draw`."""
        samples = len(noise.indices)
        whose = torch.arange(samples).repeat_interleave(self.n)
        chains = Noise(noise.seed, (noise.indices[:, None] * self.n + torch.arange(self.n)).flatten().tolist())
        start = None if x_init is None else x_init[whose]
        whole = replace(problem.rows(whose), show_every=0, show_path=False)
        x, report = yield from sample(whole, chains, self.inner, start)
        if report.rewards is None:
            report.rewards = yield from self.target.score(x)
            report.reward_rows += len(x)
        best = report.rewards.reshape(samples, self.n).argmax(dim=1) + torch.arange(samples) * self.n
        report.rewards = report.rewards[best]
        report.ess = report.ess[:, best] if report.ess.numel() else report.ess
        return x[best], report
