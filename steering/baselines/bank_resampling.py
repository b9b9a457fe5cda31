"""Importance resampling: samples of the model, drawn once, are drawn again with probability exp(r / beta).

No network rows while sampling and, at most as many as the bank's effective size, no new samples either.
"""

import math
from collections.abc import Generator, Hashable, MutableMapping

import torch
from jaxtyping import Float
from torch import Tensor

from steering.errors import SteeringError, UnsuitableError
from steering.methods.aimed import Aimed
from steering.methods.doob import bank_size, draw_bank
from steering.numerics.noise import START, Draw, Noise
from steering.numerics.weights import draw_indices, effective_size, softmax
from steering.sampling.rows import Rows
from steering.sampling.sampler import Drawing, Problem, Report, Start, prepared
from steering.targets.target import Reward, Target


class BankResampling(Aimed):
    """Steering toward p(x_0) exp(reward(x_0) / beta) among stored samples.

    Args:
        reward: scores samples, [B, *event] -> [B].
        beta: temperature > 0; smaller is stronger.
        samples: the model's own [K, *event]; 4,096 are drawn from the network on first use, and kept, when absent.
        threshold: condition on reward >= threshold instead; beta is then not used.
        scored: rewards of the given samples by a reward's key, for others to share.
        key: identifies the reward, see `Target`.
    """

    held = 1
    stage_rows = 0
    shows = False

    def __init__(
        self,
        reward: Reward,
        beta: float = 1.0,
        samples: Float[Tensor, "k *event"] | None = None,
        *,
        threshold: float | None = None,
        scored: MutableMapping[Hashable, Float[Tensor, " k"]] | None = None,
        key: Hashable = None,
    ) -> None:
        super().__init__(Target(reward, beta, threshold, key))
        self._given, self._scored_given = samples, {} if scored is None else scored
        self._drawn: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def draw(self, problem: Problem, noise: Noise, x_init: Start | None) -> Drawing:
        """Implements `Steering.draw`: each sample is a draw of its own."""
        if problem.condition or problem.mean is not None:
            raise UnsuitableError("bank resampling: expected no conditions, a bank is of one law")
        if x_init is not None:
            raise UnsuitableError("bank resampling: expected no x_init, stored samples start nowhere")
        report = Report()
        samples, rewards = yield from prepared(self.prepare(problem), report)
        weights = softmax(self.target.log_weights(rewards.to(torch.float64)))
        picked = draw_indices(weights[None], noise.uniform(START, Draw.BANK, 1).T).squeeze(0)
        size = float(effective_size(weights)) if bool(self.target.hit(rewards)) else 0.0
        report.ess = torch.full((1, len(picked)), size, dtype=problem.dtype)
        log_w = self.target.log_weight(rewards.to(torch.float64))
        report.log_z = torch.logsumexp(log_w, 0, keepdim=True) - math.log(len(rewards))
        report.rewards = rewards[picked]
        if size < len(picked):
            report.warnings.append(
                f"reward {self.name!r} leaves {size:.0f} effective samples of {len(rewards)}, fewer than are drawn"
            )
        return samples[picked].to(problem.dtype), report

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, tuple[Tensor, Tensor]]:
        """The samples and their rewards, both made once."""
        if self._given is not None:
            samples, key = self._given, self.target.key
            if tuple(samples.shape[1:]) != problem.event or not len(samples):
                raise SteeringError(f"samples: expected [K, {problem.event}], got {list(samples.shape)}")
            if key not in self._scored_given:
                self._scored_given[key] = yield from self.target.score(samples)
            return samples, self._scored_given[key]
        where = (problem.model, problem.event, problem.plan.path)
        if where not in self._drawn:
            samples = yield from draw_bank(problem, bank_size(problem.event))
            self._drawn[where] = samples, (yield from self.target.score(samples))
        return self._drawn[where]
